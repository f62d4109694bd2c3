"""Third-party shards in common layouts are indexed unchanged and read like those of pipelines.build."""

import json
import subprocess
import tarfile

import numpy as np
import pytest
import webdataset as wds
from tiny_foreign_shards import (
    WRITTEN,
    assert_reads_as_stock_webdataset_does,
    assert_verifies,
    batches,
    index_shards,
    opus,
    png,
    sample,
    write_samples,
    write_tar,
)
from tiny_shards import encode_audio, jpeg, tone

from configs.errors import UsageError
from pipelines.stream.index import DatasetIndex
from pipelines.stream.reader import ClipReader, MemberKeys


def test_shards_of_webdataset_shard_writer_are_indexed_and_streamed(tmp_path, capsys):
    folder = write_samples(tmp_path / "a", [sample(number) for number in range(8)])
    tars = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, out, _ = index_shards(folder, capsys)
    assert code == 0
    assert out.split()[:2] == ["clips", "8"] and "in 3 shards" in out
    assert "24   8 flac, 8 jpg, 8 json" in out
    index = assert_reads_as_stock_webdataset_does(folder)
    assert index.clips == 8
    assert_verifies(folder, capsys)
    assert {path.name: path.read_bytes() for path in folder.glob("*.tar")} == tars
    assert {path.name for path in folder.glob("[!.]*")} == tars.keys() | WRITTEN | {
        f"{number:05d}.json" for number in range(3)
    }
    seen = {name for batch in batches(folder, 16) for name in batch.id}
    assert seen == {f"{number:09d}" for number in range(8)}


def test_img2dataset_layout_is_indexed_and_its_other_files_are_kept(tmp_path, capsys):
    folder = tmp_path / "cc3m"
    folder.mkdir()
    for shard in range(2):
        with (folder / f"{shard:05d}.tar").open("wb") as file, wds.TarWriter(file) as tar:
            for number in range(4):
                meta = {
                    "caption": "a dog",
                    "url": "https://x",
                    "key": f"{shard:05d}{number:04d}",
                    "status": "success",
                    "width": 32,
                    "exif": "{}",
                }
                tar.write(
                    {"__key__": meta["key"], "jpg": jpeg(number), "txt": "a dog", "json": json.dumps(meta, indent=4)}
                )
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        (folder / f"{shard:05d}_stats.json").write_text('{"count": 4}')
    code, out, _ = index_shards(folder, capsys)
    assert code == 0
    assert "skipped            8   8 .txt" in out
    index = assert_reads_as_stock_webdataset_does(folder)
    assert index.id(5) == "000010001"
    assert_verifies(folder, capsys)
    reader = ClipReader(index, 24, 0.5, 16000, keys=MemberKeys(image_key="jpg"))
    assert (reader.frame(5, 0) == 1).all()
    assert reader.metadata(5)["caption"] == "a dog"
    assert (folder / "00000_stats.json").read_text() == '{"count": 4}'
    with pytest.raises(
        UsageError, match=r"no clip has audio members, only .*\.jpg.*; set stream.sources.0.audio_key to one of these"
    ):
        reader.check_keys()


def test_video2dataset_layout_with_frames_and_flac_is_indexed_and_its_videos_are_skipped(tmp_path, capsys):
    folder = tmp_path / "webvid"
    folder.mkdir()
    with (folder / "00000.tar").open("wb") as file, wds.TarWriter(file) as tar:
        for number in range(6):
            streams = {
                "jpg": jpeg(3 * number),
                "flac": encode_audio(tone(number)),
                "mp4": b"\0" * 5000,
                "m4a": b"\0" * 99,
                "txt": "a dog",
            }
            tar.write(
                {
                    "__key__": f"{number // 2:09d}_{number % 2:05d}",
                    **streams,
                    "json": json.dumps({"clips": [[0.0, 2.5]], "yt_meta_dict": {}}),
                }
            )
    (folder / "00000.parquet").write_bytes(b"PAR1")
    (folder / "00000_stats.json").write_text("{}")
    code, out, _ = index_shards(folder, capsys)
    assert code == 0
    assert "skipped           18   6 .m4a, 6 .mp4, 6 .txt" in out
    assert_reads_as_stock_webdataset_does(folder)
    assert_verifies(folder, capsys)
    assert {name for batch in batches(folder, 6) for name in batch.id} == {
        f"{n // 2:09d}_{n % 2:05d}" for n in range(6)
    }


def test_shards_with_videos_only_are_rejected_with_a_hint(tmp_path, capsys):
    folder = write_samples(
        tmp_path / "a", [{"__key__": str(n), "mp4": b"x", "m4a": b"x", "json": {}} for n in range(3)]
    )
    code, _, error = index_shards(folder, capsys)
    assert code == 1
    assert "have no images and no audio" in error and "3 .mp4" in error and "pipelines.build" in error
    assert not {path.name for path in folder.iterdir()} - {"00000.tar"}


@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["ustar", "gnu", "pax"]
)
def test_all_tar_formats_with_long_names_and_folders_are_indexed(tmp_path, capsys, form):
    keys = ["plain", "a/b/000", "./c/001", "d.e/002", "x" * 120 + "/" + "y" * 60, "--aE2O5G5WE_0"]
    keys += ["z" * 400, "Ünï çödé/名前　１", "👩‍🚀 clip"] if form != tarfile.USTAR_FORMAT else []
    members = [
        (f"{key}{extension}", data)
        for key in keys
        for extension, data in ((".jpg", jpeg(1)), (".flac", encode_audio(tone(1))))
    ]
    directory = tarfile.TarInfo("a/b")
    directory.type = tarfile.DIRTYPE
    write_tar(
        tmp_path / "a/00000.tar",
        [(directory, b""), *members, ("README", b"no extension"), ("__meta__/x.json", b"{}"), (".hidden", b"")],
        form,
    )
    code, out, error = index_shards(tmp_path / "a", capsys)
    assert code == 0, error
    assert "skipped            3   3 without a key" in out
    index = DatasetIndex.open(tmp_path / "a")
    assert [index.id(clip) for clip in range(index.clips)] == keys
    assert_reads_as_stock_webdataset_does(tmp_path / "a")
    assert_verifies(tmp_path / "a", capsys)


def test_tar_packed_by_gnu_tar_is_indexed(tmp_path, capsys):
    (tmp_path / "files/deep").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"files/deep/{number}.JPG").write_bytes(jpeg(number))
        (tmp_path / f"files/deep/{number}.flac").write_bytes(encode_audio(tone(number)))
    (tmp_path / "a").mkdir()
    subprocess.run(["tar", "--sort=name", "-cf", tmp_path / "a/train.0.tar", "-C", tmp_path / "files", "."], check=True)
    assert index_shards(tmp_path / "a", capsys)[0] == 0
    index = assert_reads_as_stock_webdataset_does(tmp_path / "a")
    assert [index.id(clip) for clip in range(3)] == ["./deep/0", "./deep/1", "./deep/2"]
    assert index.read(2, "jpg") == jpeg(2)
    assert_verifies(tmp_path / "a", capsys)


def test_member_keys_select_the_image_and_audio_members(tmp_path, capsys):
    samples = [
        {
            "__key__": str(n),
            "rgb.jpg": jpeg(10 + n),
            "depth.png": png(200),
            "mix.wav": encode_audio(tone(n), "wav"),
            "voice.OPUS": opus(tone(n + 9)),
        }
        for n in range(6)
    ]
    folder = write_samples(tmp_path / "a", samples)
    assert index_shards(folder, capsys)[0] == 0
    reader = ClipReader(DatasetIndex.open(folder), 24, 0.5, 16000, keys=MemberKeys("RGB.jpg", ".mix.wav"))
    assert reader.frame_names(3) == ["rgb.jpg"]
    assert abs(reader.frame(3, 0).float().mean() - 13) < 1
    assert reader.waveform(3) == pytest.approx(tone(3), abs=1e-4)
    voice = ClipReader(reader.index, 24, 0.5, 16000, keys=MemberKeys("rgb.jpg", "voice.opus")).waveform(3)
    assert len(voice) == 8000
    assert abs(np.fft.rfft(voice)).argmax() == pytest.approx((200 + 10 * 12) / 2, abs=2)
    assert len(batches(folder, 6, image_key="rgb.jpg", audio_key="mix.wav")) == 6
    for wrong in ({"image_key": "jpg"}, {"image_key": "rgb.jpg", "audio_key": "wav"}):
        message = rf"no clip has an \w+ member \.(jpg|wav), only .*\.rgb\.jpg.*; set stream.sources.0.{list(wrong)[-1]}"
        with pytest.raises(UsageError, match=message):
            batches(folder, 1, **wrong)


def test_numbered_images_are_sorted_by_time(tmp_path, capsys):
    images = {f"{number}.jpg": jpeg(number) for number in range(12)} | {"mask.png": png(255), "thumb.jpg": jpeg(99)}
    folder = write_samples(
        tmp_path / "a", [{"__key__": str(n), "wav": encode_audio(tone(n), "wav"), **images} for n in range(2)]
    )
    assert index_shards(folder, capsys)[0] == 0
    index = DatasetIndex.open(folder)
    assert ClipReader(index, 24, 0.5, 16000, keys=MemberKeys(image_key="jpg")).frame_names(0) == [
        f"{number}.jpg" for number in range(12)
    ]
    assert len(ClipReader(index, 24, 0.5, 16000).frame_names(0)) == 14


def test_empty_shard_is_indexed_without_clips(tmp_path, capsys):
    folder = write_samples(tmp_path / "a", [sample(n) for n in range(4)])
    write_tar(folder / "00009.tar", [])
    code, out, _ = index_shards(folder, capsys)
    assert (code, "in 3 shards" in out) == (0, True)
    assert DatasetIndex.open(folder).shards[2].clips == 0
    assert_verifies(folder, capsys)
    assert len(batches(folder, 4)) == 4


def test_same_key_in_several_shards_is_allowed(tmp_path, capsys):
    for shard in range(2):
        write_tar(
            tmp_path / f"a/{shard}.tar",
            [
                (f"000{extension}", data)
                for extension, data in ((".jpg", jpeg(shard)), (".flac", encode_audio(tone(shard))))
            ],
        )
    assert index_shards(tmp_path / "a", capsys)[0] == 0
    index = DatasetIndex.open(tmp_path / "a")
    assert [(index.id(clip), index.read(clip, "jpg")) for clip in (0, 1)] == [("000", jpeg(0)), ("000", jpeg(1))]
    assert_verifies(tmp_path / "a", capsys)


@pytest.mark.parametrize("address", ["{}/none", "{}/a/00000.tar", "{}", "s3://bucket/x", "memory://x"])
def test_address_that_is_not_a_local_folder_of_tars_exits_with_2(tmp_path, capsys, address):
    write_samples(tmp_path / "a", [sample(0)])
    code, _, error = index_shards(address.format(tmp_path), capsys)
    assert (code, len(error.splitlines())) == (2, 1)
