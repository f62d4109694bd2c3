"""The build command as real processes: all rows accounted for, identical bytes for any executor, one-line errors."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tiny_builds import BROKEN, ROOT, build, contents, words
from tiny_media import write_video


def test_every_row_is_written_or_rejected_with_its_reason(built):
    out, done = built
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["rows"], manifest["written"], manifest["rejected"]) == (40, 35, 5)
    assert [shard["name"] for shard in manifest["shards"]] == [f"train-{number:06d}" for number in range(10)]
    rejected = {
        line["id"].split("-")[0]: line["reason"]
        for line in map(json.loads, (out / "rejected.jsonl").read_text().splitlines())
    }
    assert rejected == BROKEN
    assert json.loads((out / "stats.json").read_text())["rejected"] == {"no_audio": 1, "unreadable": 4}
    assert "written           35   in 10 shards" in done.stdout and "no_audio 1, unreadable 4" in done.stdout
    assert "rejected=5" in done.stderr


def test_stock_webdataset_reads_every_shard(built):
    # In a separate process: webdataset leaves files open, and warnings are errors here.
    code = (
        "import sys, json, webdataset\n"
        "for sample in webdataset.WebDataset(sys.argv[1:], shardshuffle=False).decode():\n"
        "    members = sorted(key for key in sample if not key.startswith('__'))\n"
        "    print(json.dumps([sample['__key__'], sample['json']['id'], members]))"
    )
    tars = sorted(map(str, built[0].glob("*.tar")))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *tars], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(samples) == len({key for key, _, _ in samples}) == 35
    assert all(key == json_id and members == ["0.jpg", "1.jpg", "flac", "json"] for key, json_id, members in samples)


def test_shards_are_byte_identical_for_any_process_count_and_media_path(built, media, tmp_path):
    (tmp_path / "elsewhere").symlink_to(media)
    assert build(tmp_path / "elsewhere", tmp_path / "out", "processes=1").returncode == 0
    assert contents(tmp_path / "out") == contents(built[0])


def test_complete_data_set_is_not_rewritten(built, media):
    out, done = built
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")} | {
        out / "manifest.json": (out / "manifest.json").stat().st_mtime_ns
    }
    again = build(media, out)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_retry_rejected_retries_clips_whose_media_have_changed(media, built, tmp_path):
    copy = tmp_path / "media"
    shutil.copytree(media, copy, copy_function=os.link, ignore=lambda *_: ["v31.mp4"])
    os.mkfifo(copy / "v31.mp4")
    out = tmp_path / "out"
    assert build(copy, out).returncode == 0
    assert contents(out) == contents(built[0])
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    unchanged = build(copy, out, "retry_rejected=true")
    assert unchanged.returncode == 0 and contents(out) == contents(built[0])
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")} == times

    for name in ("v05.mp4", "v31.mp4"):
        (copy / name).unlink()
        os.link(copy / "v00.mp4", copy / name)
    (copy / "v11.mp4").unlink()
    (copy / "v11.mp4").write_text("another text")
    assert build(copy, out).returncode == 0
    assert contents(out) == contents(built[0]), "only retry_rejected=true retries them"
    done = build(copy, out, "retry_rejected=true")
    assert done.returncode == 0 and "written           37" in done.stdout
    touched = [path.name for path in out.glob("*.tar") if path.stat().st_mtime_ns != times[path.name]]
    assert 1 <= len(touched) <= 3
    assert build(copy, tmp_path / "fresh").returncode == 0
    assert contents(out) == contents(tmp_path / "fresh")


def test_every_row_of_unusual_media_and_ids_is_written_or_rejected(tmp_path):
    """All kinds of media and ids that are found in the wild, in one build."""
    root = tmp_path / "media"
    (root / "videos").mkdir(parents=True)
    good = write_video(root / "videos/good.mp4")

    def link(name: str) -> None:
        os.link(good, root / "videos" / name)

    write_video(root / "videos/variable.mp4", frame_numbers=[0, 1, 2, 13, 14, 19])
    write_video(root / "videos/odd.mp4", size_px=(65, 47))
    write_video(root / "videos/mute.mp4", audio=False)
    write_video(root / "videos/blind.mp4", video=False)
    write_video(root / "videos/one.mp4", frame_numbers=[0])
    write_video(
        root / "videos/five.mp4",
        waveform=np.random.default_rng(0).normal(0, 0.1, (6, 96000)).astype(np.float32),
        layout="5.1",
        rate_hz=48000,
    )
    write_video(root / "videos/low.mp4", rate_hz=8000)
    write_video(root / "videos/high.mp4", rate_hz=96000)
    (root / "videos/empty.mp4").touch()
    (root / "videos/text.mp4").write_text("text")
    (root / "videos/folder.mp4").mkdir()
    os.mkfifo(root / "videos/fifo.mp4")
    (root / "videos/cut.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    link("concat:a%03d.mp4")
    ids = ["good", "variable", "odd", "mute", "blind", "one", "five", "low", "high"]
    ids += ["empty", "text", "folder", "fifo", "cut", "absent", "concat:a%03d"]
    lines = [f'{name}, 0, 2, "/m/1"' for name in ids]
    lines += ['good, 0, 2, "/m/2"', 'good, 1, 9, "/m/1"', 'good, 5, 9, "/m/1"', 'good, 9, 5, "/m/1"']
    lines += ['../../etc/passwd, 0, 2, "/m/1"', 'a.b, 0, 2, "/m/1"', 'a/b, 0, 2, "/m/1"', "nonsense"]
    lines += ['x, nan, 2, "/m/1"', f'{"y" * 300}, 0, 2, "/m/1"']
    (root / "eval_segments.csv").write_text("\n".join(lines))
    done = build(
        root,
        tmp_path / "out",
        "source.kind=audioset",
        "source.split=eval",
        "source.media=videos/{ytid}.mp4",
        "clips_per_shard=7",
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    rejected = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    written = {
        clip["id"]
        for index in (tmp_path / "out").glob("eval-*.json")
        for clip in json.loads(index.read_text())["members"]
    }
    assert manifest["rows"] == len(lines) == manifest["written"] + manifest["rejected"] == len(written) + len(rejected)
    assert written == {"good_0", "variable_0", "odd_0", "five_0", "low_0", "high_0", "good_1000"}
    reasons = {(line["id"][:20], line["reason"]) for line in rejected}
    assert {
        ("mute_0", "no_audio"),
        ("blind_0", "no_video"),
        ("one_0", "static"),
        ("absent_0", "missing"),
        ("good_5000", "outside_file"),
    } <= reasons
    assert {(f"{name}_0", "unreadable") for name in ("empty", "text", "folder", "fifo", "cut")} <= reasons
    assert {
        ("good_0", "duplicate_id"),
        ("good_9000", "bad_times"),
        ("a.b_0", "bad_id"),
        ("a/b_0", "bad_id"),
        ("nonsense", "bad_row"),
    } <= reasons
    assert "missing: " in done.stderr and "videos/absent.mp4" in done.stderr


def test_data_set_without_a_usable_clip_exits_with_1(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.mp4").write_text("text")
    done = build(tmp_path / "media", tmp_path / "out")
    assert done.returncode == 1 and "no clip could be used" in done.stderr
    assert json.loads((tmp_path / "out/manifest.json").read_text())["rejected"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["source.kind=youtube"], "source.kind=youtube: allowed are folder, audioset, places_audio, vggsound (from"),
        (["executor=cloud"], "executor=cloud: allowed are local, ray, slice (from"),
        (["decode.audio_format=mp3"], "decode.audio_format=mp3: allowed are flac, wav (from"),
        (["decode.mode=slow"], "decode.mode=slow: allowed are exact, fast, keyframes (from"),
        (["decode.decoder=decord", "decode.mode=fast"], "decode.decoder=decord: decode.mode=fast supports pyav only"),
        (["source.split=a/b"], "source.split='a/b' is not a valid shard name"),
        (["clips_per_shard=0"], "clips_per_shard=0 must be 1 or more"),
        (["decode.jpeg_quality=101"], "decode.jpeg_quality=101 must be 1 to 100"),
        (["decode.max_duration_s=0.2"], "decode.max_duration_s=0.2 must be 0.3 or more"),
        (["source.root=/nowhere"], "source.root='/nowhere' is not a folder"),
        (["out="], "out= is empty"),
    ],
)
def test_invalid_setting_is_a_one_line_error(media, tmp_path, changes, message):
    done = build(media, tmp_path / "out", *changes)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_empty_source_is_a_one_line_error(tmp_path):
    (tmp_path / "media").mkdir()
    done = build(tmp_path / "media", tmp_path / "out")
    assert done.returncode == 2 and "no video found below it (.3gp .avi" in done.stderr
    assert not (tmp_path / "out").exists()


def test_folder_with_another_manifest_is_not_changed(media, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text("{}")
    done = build(media, tmp_path / "out")
    assert done.returncode == 2 and "pipelines.build did not write" in done.stderr
    assert contents(tmp_path / "out") == {"manifest.json": b"{}"}


def test_build_and_verify_run_without_torch(media, tmp_path):
    code = (
        "import sys, runpy\n"
        "class NotInstalled:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision', 'torchaudio', 'timm', 'accelerate'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, NotInstalled())\n"
        "from configs.cli import run; from configs.schema import BuildConfig\n"
        "import pipelines.build.__main__ as build, pipelines.verify\n"
        "sys.exit(run(BuildConfig, '', build.main))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words(media, tmp_path / "out")[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
