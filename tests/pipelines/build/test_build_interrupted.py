"""A build interrupted by a signal, a full disk or lost storage resumes to the same bytes, only with equal settings."""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tiny_builds import build, contents, interrupt, running, start, wait
from tiny_disk import tiny_disk
from tiny_media import write_video


def test_lost_file_system_of_the_media_ends_the_build_without_rejecting_clips(media, built, tmp_path):
    root = tmp_path / "mount"

    def mount_and_start(out):
        root.unlink(missing_ok=True)
        root.symlink_to(media)
        return start(root, out, "processes=1")

    out, process, printed = interrupt(
        mount_and_start,
        [tmp_path / f"out{attempt}" for attempt in range(5)],
        lambda out: list(out.glob("train-*.json")),
        lambda _: root.unlink(),
    )
    assert process.returncode == 1 and "the storage failed" in printed and "Traceback" not in printed
    root.symlink_to(media)
    assert build(root, out, "processes=1").returncode == 0
    assert contents(out) == contents(built[0])


@pytest.mark.parametrize(
    "lost", ["train-000002.tar", "train-000002.json", "rejected.jsonl", "stats.json", "manifest.json"]
)
def test_deleted_file_is_rebuilt_by_the_same_command(media, built, tmp_path, lost):
    out = tmp_path / "out"
    shutil.copytree(built[0], out)
    before = contents(out)
    (out / lost).unlink()
    assert build(media, out, "processes=2").returncode == 0
    assert contents(out) == before


def _is_in_shard(out: Path, number: int) -> bool:
    return len(list(out.glob("train-*.json"))) >= number and bool(list(out.glob(".train-*.tmp")))


@pytest.mark.parametrize(
    ("sent", "shards"),
    [(signal.SIGKILL, 0), (signal.SIGKILL, 3), (signal.SIGKILL, 6), (signal.SIGINT, 2), (signal.SIGTERM, 4)],
)
def test_interrupted_build_resumes_to_the_same_bytes(built, media, tmp_path, sent, shards):
    out, process, printed = interrupt(
        lambda out: start(media, out, "processes=1"),
        [tmp_path / f"out{attempt}" for attempt in range(5)],
        lambda out: _is_in_shard(out, shards),
        lambda process: process.send_signal(sent),
    )
    assert process.returncode == (130 if sent == signal.SIGINT else -sent), printed[-2000:]
    assert "Traceback" not in printed
    wait(lambda: not running(process))
    times = {path: path.stat().st_mtime_ns for path in out.glob("train-*.json")}
    assert build(media, out).returncode == 0
    assert contents(out) == contents(built[0])
    assert all(path.stat().st_mtime_ns == when for path, when in times.items()), "a finished shard was built again"


@pytest.mark.slow
def test_build_killed_at_twenty_random_moments_resumes_to_the_same_bytes(built, media, tmp_path):
    began_s = time.monotonic()
    assert build(media, tmp_path / "complete", "processes=2").returncode == 0
    build_s = time.monotonic() - began_s
    draw, kills = random.Random(0), 0
    for attempt in range(100):
        out = tmp_path / f"out{attempt}"
        while kills < 20:
            process = start(media, out, "processes=2")
            time.sleep(draw.uniform(0, build_s))
            process.kill()
            process.communicate()
            if process.returncode == 0:
                break  # it finished; the next attempt starts again
            kills += 1
            wait(lambda process=process: not running(process))
        assert build(media, out).returncode == 0
        assert contents(out) == contents(built[0])
        assert not [path for path in out.iterdir() if path.name.startswith(".")]
        if kills == 20:
            return
    raise AssertionError(f"only {kills} kills in 100 builds")


def test_full_disk_is_a_one_line_error_and_finished_shards_are_kept(media, tmp_path):
    with tiny_disk(tmp_path, "300k") as disk:
        done = build(media, disk / "out", "processes=1", "decode.audio_format=wav")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: No space left on device")
        names = sorted(path.name for path in (disk / "out").iterdir())
        assert names[0] == "build.json" and all(name.startswith("train-") for name in names[1:])
        assert any(name.endswith(".tar") for name in names)
        subprocess.run(["mount", "-o", "remount,size=20M", disk], check=True)
        assert build(media, disk / "out", "decode.audio_format=wav").returncode == 0
        assert json.loads((disk / "out/manifest.json").read_text())["written"] == 35


def test_decoder_versions_are_not_mixed_in_one_data_set(media, built, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(built[0], out)
    recorded = json.loads((out / "build.json").read_text())
    recorded["versions"]["av"] = "1.0"
    (out / "build.json").write_text(json.dumps(recorded))
    assert build(media, out).returncode == 0, "a complete data set is not changed"
    (out / "manifest.json").unlink()
    done = build(media, out)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "begun with other versions (av: 1.0 -> " in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["clips_per_shard=5"], "clips_per_shard: 4 -> 5"),
        (["decode.jpeg_quality=80", "seed=1"], "decode.jpeg_quality: 90 -> 80; seed: 0 -> 1"),
    ],
)
def test_other_settings_in_the_same_folder_are_a_one_line_error(built, media, changes, message):
    before = contents(built[0])
    done = build(media, built[0], *changes)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert contents(built[0]) == before


def test_other_rows_in_the_same_folder_are_an_error(built, tmp_path):
    write_video(tmp_path / "media/v00.mp4")
    before = contents(built[0])
    done = build(tmp_path / "media", built[0])
    assert done.returncode == 2 and "the rows of the source" in done.stderr
    assert contents(built[0]) == before


def test_two_builds_cannot_write_the_same_folder(media, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    descriptor = os.open(out, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    done = build(media, out)
    os.close(descriptor)
    assert done.returncode == 2 and "is being written by another command" in done.stderr
