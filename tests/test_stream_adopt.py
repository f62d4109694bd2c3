"""Shards that others wrote: indexed as they are, read like ours, and refused in one line where something in them has no place in a tar of samples."""

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset as wds
from small_shards import jpeg, sound, tone, write_data_set
from webdataset.tariterators import group_by_keys, tar_file_iterator

from configs.command import UsageError, run
from configs.schema import AdoptConfig, AugmentConfig, InspectConfig, StreamConfig, StreamSourceConfig, VerifyConfig
from pipelines.inspect import main as inspect_main
from pipelines.stream.index import DatasetIndex, main
from pipelines.stream.loader import open_stream
from pipelines.stream.reader import ClipReader, Fields
from pipelines.verify import main as verify_main

ROOT = Path(__file__).resolve().parent.parent
TYPES = ("jpg", "png", "flac", "wav", "opus", "npy", "json")
OURS = {"manifest.json", "stats.json", "rejected.jsonl"}


def write_tar(path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = member.size or len(data)
            tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return path


def write_samples(folder: Path, samples: list[dict], **settings) -> Path:
    """Shards of three samples each, by webdataset's own writer."""
    folder.mkdir(parents=True)
    with wds.ShardWriter(str(folder / "%05d.tar"), maxcount=3, verbose=0, **settings) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


def sample(number: int, key: str = "{:09d}", **more) -> dict:
    return {"__key__": key.format(number), "jpg": jpeg(3 * number), "flac": sound(tone(number)), "json": {"labels": []}, **more}


def opus(waveform: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, 16000, format="OGG", subtype="OPUS")
    return buffer.getvalue()


def png(value: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (32, 32), value).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def adopt(folder, capsys, *settings) -> tuple[int, str, str]:
    """Exit code, what was printed, and the error line."""
    code = run(AdoptConfig, "", main, [str(folder), *settings], positional=("dir",))
    out, err = capsys.readouterr()
    return code, out, "\n".join(line for line in err.splitlines() if line.startswith("error"))


def assert_reads_as_stock_webdataset_does(folder: Path) -> DatasetIndex:
    index = DatasetIndex.open(folder)
    stock = []
    for path in sorted(folder.glob("*.tar")):
        with path.open("rb") as file:
            for found in group_by_keys({**member, "__url__": path.name} for member in tar_file_iterator(file)):
                kept = {name: data for name, data in found.items() if name.rpartition(".")[2] in TYPES}
                stock += [{"__key__": found["__key__"], **kept}] if kept else []
    assert [index.id(clip) for clip in range(index.clips)] == [s["__key__"] for s in stock]
    for clip, expected in enumerate(stock):
        assert {name: index.read(clip, name) for name in index.members(clip)} == {k: v for k, v in expected.items() if k != "__key__"}
    return index


def assert_whole(folder: Path, capsys) -> None:
    code = verify_main(VerifyConfig(), str(folder))
    assert code == 0, capsys.readouterr().out
    code = inspect_main(InspectConfig(clips=3), str(folder))
    assert code == 0, capsys.readouterr().out
    capsys.readouterr()


def batches(folder: Path, count: int, **source):
    augment = AugmentConfig(splice_min_s=0.1, splice_max_s=0.3, splice_fade_min_s=0.05, extra_mask_min_s=0.2)
    sources = [StreamSourceConfig(shards=str(folder), **source)]
    config = StreamConfig(sources=sources, image_size_px=24, clip_duration_s=0.5, workers=0, window_clips=8, lanes=2, augment=augment, max_rejected_share=0.0)
    stream = open_stream(config, 0, 2)
    return [batch for _, batch in zip(range(count), stream.batches(), strict=False)]


def test_shards_of_webdatasets_writer_are_indexed_and_give_batches(tmp_path, capsys):
    folder = write_samples(tmp_path / "a", [sample(number) for number in range(8)])
    tars = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, out, _ = adopt(folder, capsys)
    assert code == 0
    assert out.split()[:2] == ["clips", "8"] and "in 3 shards" in out
    assert "24   8 flac, 8 jpg, 8 json" in out
    index = assert_reads_as_stock_webdataset_does(folder)
    assert index.clips == 8
    assert_whole(folder, capsys)
    assert {path.name: path.read_bytes() for path in folder.glob("*.tar")} == tars
    assert {path.name for path in folder.glob("[!.]*")} == tars.keys() | OURS | {f"{number:05d}.json" for number in range(3)}
    seen = {name for batch in batches(folder, 16) for name in batch.id}
    assert seen == {f"{number:09d}" for number in range(8)}


def test_the_layout_of_img2dataset_is_read_beside_its_other_files(tmp_path, capsys):
    folder = tmp_path / "cc3m"
    folder.mkdir()
    for shard in range(2):
        with (folder / f"{shard:05d}.tar").open("wb") as file, wds.TarWriter(file) as tar:
            for number in range(4):
                meta = {"caption": "a dog", "url": "https://x", "key": f"{shard:05d}{number:04d}", "status": "success", "width": 32, "exif": "{}"}
                tar.write({"__key__": meta["key"], "jpg": jpeg(number), "txt": "a dog", "json": json.dumps(meta, indent=4)})
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        (folder / f"{shard:05d}_stats.json").write_text('{"count": 4}')
    code, out, _ = adopt(folder, capsys)
    assert code == 0
    assert "left out           8   8 .txt" in out
    index = assert_reads_as_stock_webdataset_does(folder)
    assert index.id(5) == "000010001"
    assert_whole(folder, capsys)
    reader = ClipReader(index, 24, 0.5, 16000, fields=Fields(pictures="jpg"))
    assert (reader.frame(5, 0) == 1).all()
    assert reader.metadata(5)["caption"] == "a dog"
    assert (folder / "00000_stats.json").read_text() == '{"count": 4}'
    with pytest.raises(UsageError, match=r"no clip has a sound, there are .*\.jpg.*; stream.sources.0.sound names one"):
        reader.check_fields()


def test_the_layout_of_video2dataset_with_frames_and_flac_is_read_and_its_videos_are_counted(tmp_path, capsys):
    folder = tmp_path / "webvid"
    folder.mkdir()
    with (folder / "00000.tar").open("wb") as file, wds.TarWriter(file) as tar:
        for number in range(6):
            streams = {"jpg": jpeg(3 * number), "flac": sound(tone(number)), "mp4": b"\0" * 5000, "m4a": b"\0" * 99, "txt": "a dog"}
            tar.write({"__key__": f"{number // 2:09d}_{number % 2:05d}", **streams, "json": json.dumps({"clips": [[0.0, 2.5]], "yt_meta_dict": {}})})
    (folder / "00000.parquet").write_bytes(b"PAR1")
    (folder / "00000_stats.json").write_text("{}")
    code, out, _ = adopt(folder, capsys)
    assert code == 0
    assert "left out          18   6 .m4a, 6 .mp4, 6 .txt" in out
    assert_reads_as_stock_webdataset_does(folder)
    assert_whole(folder, capsys)
    assert {name for batch in batches(folder, 6) for name in batch.id} == {f"{n // 2:09d}_{n % 2:05d}" for n in range(6)}


def test_shards_with_nothing_but_videos_are_refused_with_what_to_do(tmp_path, capsys):
    folder = write_samples(tmp_path / "a", [{"__key__": str(n), "mp4": b"x", "m4a": b"x", "json": {}} for n in range(3)])
    code, _, error = adopt(folder, capsys)
    assert code == 1
    assert "hold no picture and no sound" in error and "3 .mp4" in error and "pipelines.build" in error
    assert not {path.name for path in folder.iterdir()} - {"00000.tar"}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["ustar", "gnu", "pax"])
def test_all_forms_of_tar_with_long_names_and_folders_are_read(tmp_path, capsys, form):
    keys = ["plain", "a/b/000", "./c/001", "d.e/002", "x" * 120 + "/" + "y" * 60, "--aE2O5G5WE_0"]
    keys += ["z" * 400, "Ünï çödé/名前　１", "👩‍🚀 clip"] if form != tarfile.USTAR_FORMAT else []
    members = [(f"{key}{extension}", data) for key in keys for extension, data in ((".jpg", jpeg(1)), (".flac", sound(tone(1))))]
    directory = tarfile.TarInfo("a/b")
    directory.type = tarfile.DIRTYPE
    write_tar(tmp_path / "a/00000.tar", [(directory, b""), *members, ("README", b"no extension"), ("__meta__/x.json", b"{}"), (".hidden", b"")], form)
    code, out, error = adopt(tmp_path / "a", capsys)
    assert code == 0, error
    assert "left out           3   3 without a key" in out
    index = DatasetIndex.open(tmp_path / "a")
    assert [index.id(clip) for clip in range(index.clips)] == keys
    assert_reads_as_stock_webdataset_does(tmp_path / "a")
    assert_whole(tmp_path / "a", capsys)


def test_a_tar_packed_by_the_tar_program_is_read(tmp_path, capsys):
    (tmp_path / "files/deep").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"files/deep/{number}.JPG").write_bytes(jpeg(number))
        (tmp_path / f"files/deep/{number}.flac").write_bytes(sound(tone(number)))
    (tmp_path / "a").mkdir()
    subprocess.run(["tar", "--sort=name", "-cf", tmp_path / "a/train.0.tar", "-C", tmp_path / "files", "."], check=True)
    assert adopt(tmp_path / "a", capsys)[0] == 0
    index = assert_reads_as_stock_webdataset_does(tmp_path / "a")
    assert [index.id(clip) for clip in range(3)] == ["./deep/0", "./deep/1", "./deep/2"]
    assert index.read(2, "jpg") == jpeg(2)
    assert_whole(tmp_path / "a", capsys)


def test_fields_say_which_member_is_the_picture_and_which_the_sound(tmp_path, capsys):
    samples = [
        {"__key__": str(n), "rgb.jpg": jpeg(10 + n), "depth.png": png(200), "mix.wav": sound(tone(n), "wav"), "voice.OPUS": opus(tone(n + 9))} for n in range(6)
    ]
    folder = write_samples(tmp_path / "a", samples)
    assert adopt(folder, capsys)[0] == 0
    reader = ClipReader(DatasetIndex.open(folder), 24, 0.5, 16000, fields=Fields("RGB.jpg", ".mix.wav"))
    assert reader.frame_names(3) == ["rgb.jpg"]
    assert abs(reader.frame(3, 0).float().mean() - 13) < 1
    assert reader.waveform(3) == pytest.approx(tone(3), abs=1e-4)
    voice = ClipReader(reader.index, 24, 0.5, 16000, fields=Fields("rgb.jpg", "voice.opus")).waveform(3)
    assert len(voice) == 8000
    assert abs(np.fft.rfft(voice)).argmax() == pytest.approx((200 + 10 * 12) / 2, abs=2)
    assert len(batches(folder, 6, pictures="rgb.jpg", sound="mix.wav")) == 6
    for wrong in ({"pictures": "jpg"}, {"pictures": "rgb.jpg", "sound": "wav"}):
        with pytest.raises(UsageError, match=rf"no clip has a \w+ \.(jpg|wav), there are .*\.rgb\.jpg.*; stream\.sources\.0\.{list(wrong)[-1]} names one"):
            batches(folder, 1, **wrong)


def test_numbered_pictures_are_taken_in_order_of_time(tmp_path, capsys):
    pictures = {f"{number}.jpg": jpeg(number) for number in range(12)} | {"mask.png": png(255), "thumb.jpg": jpeg(99)}
    folder = write_samples(tmp_path / "a", [{"__key__": str(n), "wav": sound(tone(n), "wav"), **pictures} for n in range(2)])
    assert adopt(folder, capsys)[0] == 0
    index = DatasetIndex.open(folder)
    assert ClipReader(index, 24, 0.5, 16000, fields=Fields(pictures="jpg")).frame_names(0) == [f"{number}.jpg" for number in range(12)]
    assert len(ClipReader(index, 24, 0.5, 16000).frame_names(0)) == 14


def test_an_empty_shard_is_a_shard_without_clips(tmp_path, capsys):
    folder = write_samples(tmp_path / "a", [sample(n) for n in range(4)])
    write_tar(folder / "00009.tar", [])
    code, out, _ = adopt(folder, capsys)
    assert (code, "in 3 shards" in out) == (0, True)
    assert DatasetIndex.open(folder).shards[2].clips == 0
    assert_whole(folder, capsys)
    assert len(batches(folder, 4)) == 4


def test_the_same_key_in_several_shards_is_no_damage(tmp_path, capsys):
    for shard in range(2):
        write_tar(tmp_path / f"a/{shard}.tar", [(f"000{extension}", data) for extension, data in ((".jpg", jpeg(shard)), (".flac", sound(tone(shard))))])
    assert adopt(tmp_path / "a", capsys)[0] == 0
    index = DatasetIndex.open(tmp_path / "a")
    assert [(index.id(clip), index.read(clip, "jpg")) for clip in (0, 1)] == [("000", jpeg(0)), ("000", jpeg(1))]
    assert_whole(tmp_path / "a", capsys)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_command_again_gives_the_same_bytes_and_takes_new_and_changed_shards(tmp_path, capsys):
    folder = write_samples(tmp_path / "a", [sample(n) for n in range(6)])
    assert adopt(folder, capsys)[0] == 0
    first = _files(folder)
    old = DatasetIndex.open(folder)
    assert adopt(folder, capsys)[0] == 0
    assert _files(folder) == first
    shutil.copy(write_samples(tmp_path / "b", [sample(n, "new{}") for n in range(2)]) / "00000.tar", folder / "00007.tar")
    assert verify_main(VerifyConfig(), str(folder)) == 1
    assert "00007.tar is not in manifest.json" in capsys.readouterr().out
    assert adopt(folder, capsys)[0] == 0
    new = assert_reads_as_stock_webdataset_does(folder)
    assert (old.clips, new.clips) == (6, 8) and old.fingerprint != new.fingerprint
    assert {name: data for name, data in _files(folder).items() if name in first and name not in OURS} == {k: v for k, v in first.items() if k not in OURS}
    assert_whole(folder, capsys)


def test_a_tar_changed_afterwards_is_noticed(tmp_path, capsys):
    folder = write_samples(tmp_path / "a", [sample(n) for n in range(3)])
    assert adopt(folder, capsys)[0] == 0
    tar = folder / "00000.tar"
    data = bytearray(tar.read_bytes())
    data[1600] ^= 1
    tar.write_bytes(data)
    assert verify_main(VerifyConfig(), str(folder)) == 1
    out = capsys.readouterr().out
    assert "00000.tar has another SHA-256" in out and "python -m pipelines.stream.index DIR" in out
    tar.write_bytes(bytes(data) + bytes(10240))
    with pytest.raises(UsageError, match=r"00000\.tar has \d+ bytes, manifest\.json says"):
        DatasetIndex.open(folder)
    assert adopt(folder, capsys)[0] == 0
    assert DatasetIndex.open(folder).clips == 3


@pytest.mark.parametrize("name", ["00000.json", "manifest.json", "stats.json", "rejected.jsonl", "build.json"])
def test_a_file_of_others_is_never_overwritten(tmp_path, capsys, name):
    folder = write_samples(tmp_path / "a", [sample(n) for n in range(3)])
    (folder / name).write_text('{"mine": true}')
    before = _files(folder)
    code, _, error = adopt(folder, capsys)
    assert code == 2
    assert name in error or (name == "build.json" and "pipelines.build" in error)
    assert _files(folder) == before


def test_a_data_set_of_ours_is_not_adopted(tmp_path, capsys):
    folder = write_data_set(tmp_path / "a", [2])
    before = _files(folder)
    assert adopt(folder, capsys)[0] == 2
    assert _files(folder) == before


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_read_and_links_elsewhere_do(capsys):
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        folder, me = write_samples(Path(root) / "a", [sample(n) for n in range(3)]), os.geteuid()
        Path(root).chmod(0o755)
        folder.chmod(0o555)
        if me == 0:
            os.seteuid(65534)
        try:
            code, _, error = adopt(folder, capsys)
        finally:
            os.seteuid(me)
            folder.chmod(0o755)
        assert (code, _files(folder).keys()) == (1, {"00000.tar"})
        assert "cannot be written (Permission denied): make a folder of links" in error
        links = Path(root) / "links"
        links.mkdir()
        (links / "00000.tar").symlink_to(folder / "00000.tar")
        assert adopt(links, capsys)[0] == 0
        assert_reads_as_stock_webdataset_does(links)
        assert _files(folder).keys() == {"00000.tar"}


@pytest.mark.parametrize("address", ["{}/none", "{}/a/00000.tar", "{}", "s3://bucket/x", "memory://x"])
def test_what_is_no_local_folder_of_tars_is_a_wrong_use(tmp_path, capsys, address):
    write_samples(tmp_path / "a", [sample(0)])
    code, _, error = adopt(address.format(tmp_path), capsys)
    assert (code, len(error.splitlines())) == (2, 1)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def raw(name: str, size: int, kind: bytes = tarfile.REGTYPE, form: int = tarfile.GNU_FORMAT) -> bytes:
    """A header that may claim any size, without the data."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(form)


def pax(**headers: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo("x.jpg")
    member.pax_headers = headers
    return member


def member_bytes(*members) -> bytes:
    """A tar up to its end marker."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        return buffer.getvalue()[: tar.offset]


CLIP = [("0.jpg", jpeg(0)), ("0.flac", sound(tone(0)))]
BEGIN = member_bytes(*CLIP)
END = bytes(10240)
# name -> (members after those of a good clip, or the whole file's bytes; what is said)
HOSTILE = {
    "symbolic link": ([(special("1.jpg", tarfile.SYMTYPE, "/etc/passwd"), b"")], "1.jpg is a link"),
    "hard link": ([(special("1.jpg", tarfile.LNKTYPE, "0.jpg"), b"")], "1.jpg is a link"),
    "device": ([(special("1.jpg", tarfile.CHRTYPE), b"")], "1.jpg is a link, a device"),
    "pipe": ([(special("1.jpg", tarfile.FIFOTYPE), b"")], "1.jpg is a link, a device"),
    "absolute name": ([("/etc/cron.d/x.jpg", b"x")], "a name that leads out of its folder or is no text, or a size below 0: '/etc/cron.d/x.jpg'"),
    "name that leads out": ([("a/../../x.jpg", b"x")], "leads out of its folder or is no text, or a size below 0: 'a/../../x.jpg'"),
    "name that leads out, not indexed": ([("../x.mp4", b"x")], "leads out"),
    "name of two lines": ([("a\nb.jpg", b"x")], "is no text, or a size below 0: 'a\\nb.jpg'"),
    "name that clears the screen": ([("\x1b[2J.jpg", b"x")], "is no text"),
    "name with a NUL": ([(pax(path="a\0b.jpg"), b"x")], "is no text"),
    "name that is no UTF-8": (BEGIN + raw("\udcff.jpg", 0) + END, "is no text"),
    "name without end": ([(pax(path="x" * 5000 + ".jpg"), b"x")], "leads out of its folder or is no text"),
    "size beyond the file": (BEGIN + raw("1.jpg", 10**6) + END, "is no readable tar: unexpected end of data"),
    "size of 8 EiB": (BEGIN + raw("1.jpg", 1 << 63) + END, f"1.jpg has {1 << 63} bytes, more than max_member_mb=64"),
    "size of 8 EiB, not indexed": (BEGIN + raw("1.mp4", 1 << 63) + END, "is no readable tar: "),
    "size below 0": (BEGIN + raw("1.jpg", -1) + END, "size below 0"),
    "size that leads back": (BEGIN + raw("1.jpg", -2048) + END, "size below 0"),
    "member over the limit": ([("1.png", bytes(65 * 10**6))], "1.png has 65000000 bytes, more than max_member_mb=64"),
    "sparse file": (BEGIN + raw("1.jpg", 0, tarfile.GNUTYPE_SPARSE) + END, "a sparse file"),
    "sparse file of PAX": ([(pax(**{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x"}), b"1\n0\n1\n")], "a sparse file"),
    "PAX header of a gigabyte": (BEGIN + raw("x", 1 << 30, tarfile.XHDTYPE) + END, "a header of 1073741824 bytes"),
    "long name of a gigabyte": (BEGIN + raw("x", 1 << 30, tarfile.GNUTYPE_LONGNAME) + END, "a header of 1073741824 bytes"),
    "headers without end": ((raw("x", 100, tarfile.XHDTYPE) + b"20 comment=aaaaaaaa\n".ljust(512, b"\0")) * 3000 + END, "is no readable tar: "),
    "gzip": ("gz", "it is compressed (gzip)"),
    "bzip2": ("bz2", "it is compressed (bzip2)"),
    "xz": ("xz", "it is compressed (xz)"),
    "no tar": (b"text " * 3000, "is no readable tar"),
    "nothing": (b"", "is no readable tar: empty file"),
    "cut off in data": (BEGIN[:-600], "is no readable tar: unexpected end of data"),
    "cut off in a header": (BEGIN + BEGIN[:300], "is no member: it is damaged there, cut off"),
    "cut off between members": (BEGIN, "it is cut off at byte"),
    "damaged header in the middle": (BEGIN + b"\xff" * 512 + BEGIN + END, "is no member: it is damaged there"),
    "two tars joined": (BEGIN + END + BEGIN + END, "or several tars in one file"),
    "pickle": ([("1.jpg", jpeg(1)), ("1.pkl", pickle.dumps(1))], "1.pkl may be a pickle, which runs code"),
    "pickle in capitals": ([("1.target.PYD", b"x")], "1.target.PYD may be a pickle"),
    "array of objects": ([("1.npy", npy(np.array([{}], dtype=object)))], "1.npy holds Python objects, that is a pickle"),
    "array of objects in a structure": ([("1.npy", npy(np.zeros(1, [("a", "f4"), ("b", "O")])))], "1.npy holds Python objects"),
    "pickle called an array": ([("1.npy", pickle.dumps([1]))], "1.npy is no array that NumPy writes"),
    "array with code in its header": ([("1.npy", b"\x93NUMPY\x01\x00\x20\x00__import__('os').system('x')   \n")], "1.npy is no array that NumPy writes"),
    "array nested without end": ([("1.npy", b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000)], "1.npy is no array that NumPy writes"),
    "member twice": ([("1.jpg", b"x"), ("1.JPG", b"y")], "1.JPG is there twice"),
    "members apart": ([("1.jpg", b"x"), ("2.jpg", b"x"), ("1.flac", b"x")], "the members of 1 do not follow one another"),
    "keys with dots": ([(f"a.{n}.jpg", b"x") for n in range(10_001)], "more than 10000 extensions; a key ends at the first dot"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_or_damaged_tar_is_refused_in_one_line_and_nothing_is_written(tmp_path, capsys, kind):
    content, said = HOSTILE[kind]
    write_tar(tmp_path / "a/00000.tar", CLIP)
    path = tmp_path / "a/00001.tar"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        with tarfile.open(path, f"w:{content}") as tar:
            tar.addfile(tarfile.TarInfo("x.jpg"))
    else:
        write_tar(path, [*CLIP, *content])
    code, out, error = adopt(tmp_path / "a", capsys)
    assert (code, out) == (1, "")
    assert len(error.splitlines()) == 1 and error.isprintable() and len(error) < 700
    assert said in error and str(tmp_path / "a") in error
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"00000.tar", "00001.tar"}


def test_a_refused_tar_leaves_an_earlier_index_as_it_was(tmp_path, capsys):
    folder = write_samples(tmp_path / "a", [sample(n) for n in range(3)])
    assert adopt(folder, capsys)[0] == 0
    before = _files(folder)
    write_tar(folder / "00001.tar", [*CLIP, ("1.pkl", b"x")])
    assert adopt(folder, capsys)[0] == 1
    assert {k: v for k, v in _files(folder).items() if k != "00001.tar"} == before


@pytest.mark.parametrize("name", ["../x", "a b", ".hidden", "ü", "manifest", "stats", "a\nb"])
def test_a_shard_with_a_name_that_cannot_be_kept_is_refused(tmp_path, capsys, name):
    write_tar(tmp_path / "a" / f"{name.replace('../', '..')}.tar", CLIP)
    code, _, error = adopt(tmp_path / "a", capsys)
    assert (code, len(error.splitlines())) == (2, 1)
    assert "rename or remove it" in error


def test_the_size_limit_is_a_setting_and_does_not_touch_what_is_left_out(tmp_path, capsys):
    write_tar(tmp_path / "a/0.tar", [*CLIP, ("0.mp4", bytes(200_000))])
    assert adopt(tmp_path / "a", capsys, "max_member_mb=0.1")[0] == 0
    code, _, error = adopt(tmp_path / "a", capsys, "max_member_mb=0.001")
    assert code == 1 and "more than max_member_mb=0.001" in error


def test_bytes_changed_at_random_are_refused_or_read_never_a_crash(tmp_path, capsys):
    rng = np.random.default_rng(0)
    good = bytearray(member_bytes(("a.jpg", b"1"), ("ü" * 150 + ".json", b"2"), ("b.npy", npy(np.zeros(3)))) + END)
    (tmp_path / "a").mkdir()
    codes = []
    for _ in range(150):
        data = bytearray(good)
        for at in rng.integers(len(good) - 9000, size=rng.integers(1, 6)):
            data[at] = rng.integers(256)
            header = at - at % 512
            if rng.random() < 0.7:  # with a checksum that fits, so that it is believed
                data[header + 148 : header + 156] = b" " * 8
                data[header + 148 : header + 156] = b"%06o\0 " % sum(data[header : header + 512])
        (tmp_path / "a/0.tar").write_bytes(data)
        code, _, error = adopt(tmp_path / "a", capsys)
        assert len(error.splitlines()) == (code > 0)
        codes.append(code)
    assert {*codes} == {0, 1}


def test_a_hostile_tar_takes_little_memory(tmp_path):
    one = (raw("x", 100_000, tarfile.XHDTYPE) + b"99999 comment=".ljust(100_352, b"a")) * 400  # a hundred of them before one member
    many = b"".join(
        raw("x", 100_000, tarfile.XGLTYPE) + (b"99999 k%06d=" % n).ljust(99_998, b"a") + b"\n".ljust(354, b"\0") + raw(f"{n}.jpg", 0) for n in range(400)
    )
    sparse = raw("1.jpg", 0, tarfile.GNUTYPE_SPARSE)[:482] + b"\1" + bytes(29)
    sparse = sparse[:148] + b"%06o\0 " % (sum(sparse) - sum(sparse[148:156]) + 8 * 32) + sparse[156:] + b"00000000001 " * 42 + b"\1" * 8
    script = "import sys; from pipelines.stream.adopt import adopt\ntry: adopt(sys.argv[1], 64)\nexcept RuntimeError as e: print(e)\n"
    script += "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    for kind, data in {"one": one, "many": many, "sparse": sparse + (b"00000000001 " * 42 + b"\1" * 8) * 40_000}.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "0.tar").write_bytes(data + END)
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path / kind)], cwd=ROOT, capture_output=True, text=True, check=True)
        said, peak_kib = done.stdout.splitlines()
        assert "is no readable tar" in said
        assert int(peak_kib) < 250_000


def _command(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "pipelines.stream.index", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


def test_the_commands_exit_with_0_1_and_2_and_what_is_adopted_verifies(tmp_path):
    folder = write_samples(tmp_path / "a", [sample(n) for n in range(4)])
    assert _command(folder).returncode == 0
    for command in ("verify", "inspect"):
        done = subprocess.run([sys.executable, "-m", f"pipelines.{command}", str(folder)], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    (folder / "00001.tar").write_bytes(BEGIN)
    refused, wrong = _command(folder), _command(tmp_path / "none")
    assert (refused.returncode, wrong.returncode) == (1, 2)
    assert all(done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1 for done in (refused, wrong))


def test_a_killed_command_leaves_no_data_set_and_runs_again(tmp_path):
    folder = tmp_path / "a"
    big = [(f"{n}{extension}", data) for n in range(1500) for extension, data in ((".jpg", bytes(30_000)), (".flac", b"x"))]
    for number in range(6):
        write_tar(folder / f"{number}.tar", big)
    running = subprocess.Popen([sys.executable, "-m", "pipelines.stream.index", str(folder)], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not list(folder.glob(".scratch-*/*.json")) and running.poll() is None:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not list(folder.glob("*.json"))
    assert _command(folder).returncode == 0
    assert DatasetIndex.open(folder).clips == 9000


def _edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _rewrite(folder: Path, members: list[tuple[str, bytes]]) -> None:
    """Another tar under an index that states its size and hash, as a careless repair would."""
    data = write_tar(folder / "0.tar", members).read_bytes()
    new = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _edit(folder / "0.json", lambda index: index.update(new))
    _edit(folder / "manifest.json", lambda manifest: manifest["shards"][0].update(new))


GOOD = [("a.JPG", jpeg(1)), ("a.flac", sound(tone(1))), ("a.txt", b"not indexed")]
DAMAGES = {
    "offset wrong": (lambda folder: _edit(folder / "0.json", lambda i: i["members"][0]["files"].update(jpg=[0, 5])), "0.json puts a.JPG at (0, 5)"),
    "id that leads out": (lambda folder: _edit(folder / "0.json", lambda i: i["members"][0].update(id="../a")), "'../a' is no id"),
    "id of two lines": (lambda folder: _edit(folder / "0.json", lambda i: i["members"][0].update(id="a\nb")), "'a\\nb' is no id"),
    "member lost": (lambda folder: _rewrite(folder, GOOD[:1]), "0.tar lacks a.flac"),
    "member twice": (lambda folder: _rewrite(folder, [*GOOD, ("a.jpg", b"x")]), "0.tar has a.jpg twice"),
    "link": (lambda folder: _rewrite(folder, [*GOOD, (special("b.jpg", tarfile.SYMTYPE, "x"), b"")]), "0.tar has b.jpg, which is no plain file"),
    "cut off": (lambda folder: os.truncate(folder / "0.tar", 2000), "0.tar has 2000 bytes, manifest.json says 10240"),
    "index gone": (lambda folder: (folder / "0.json").unlink(), "0.json cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_verify_finds_damage_of_an_adopted_data_set(tmp_path, capsys, kind):
    write_tar(tmp_path / "a/0.tar", GOOD)
    assert adopt(tmp_path / "a", capsys)[0] == 0
    assert_whole(tmp_path / "a", capsys)
    damage, said = DAMAGES[kind]
    damage(tmp_path / "a")
    assert verify_main(VerifyConfig(), str(tmp_path / "a")) == 1
    assert said in capsys.readouterr().out
