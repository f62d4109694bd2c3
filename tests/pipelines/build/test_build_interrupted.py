"""A build that was stopped, by a signal, a full disk or storage that went away, ends by the same command with the same bytes, and not with other settings."""

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
from tiny_builds import build, contents, running, start, wait, write_media
from tiny_disk import tiny_disk
from tiny_media import write_video


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def built(media, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "out"
    done = build(media, out, "processes=2")
    assert done.returncode == 0, done.stderr
    return out, done


def test_media_that_vanish_with_their_file_system_end_the_build_and_are_not_counted_as_missing(media, built, tmp_path):
    root, out = tmp_path / "mount", tmp_path / "out"
    root.symlink_to(media)
    process = start(root, out, "processes=1")
    wait(lambda: process.poll() is not None or list(out.glob("train-*.json")))
    root.unlink()
    told = process.communicate()[1]
    assert process.returncode == 1 and "the storage has failed" in told and "Traceback" not in told
    root.symlink_to(media)
    assert build(root, out, "processes=1").returncode == 0
    assert contents(out) == contents(built[0])


@pytest.mark.parametrize(
    "lost", ["train-000002.tar", "train-000002.json", "rejected.jsonl", "stats.json", "manifest.json"]
)
def test_what_was_lost_comes_back_by_the_same_command(media, built, tmp_path, lost):
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
def test_an_interrupted_build_ends_with_the_same_bytes(built, media, tmp_path, sent, shards):
    for attempt in range(5):  # a machine that stalls for a moment may see the build over before it is interrupted
        out = tmp_path / f"out{attempt}"
        process = start(media, out, "processes=1")
        wait(lambda process=process, out=out: process.poll() is not None or _is_in_shard(out, shards))
        process.send_signal(sent)
        _, printed = process.communicate(timeout=30)
        if not (out / "manifest.json").exists():
            break
    assert process.returncode == (130 if sent == signal.SIGINT else -sent), printed[-2000:]
    assert "Traceback" not in printed
    wait(lambda: not running(process))
    kept = {path: path.stat().st_mtime_ns for path in out.glob("train-*.json")}
    assert build(media, out).returncode == 0
    assert contents(out) == contents(built[0])
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items()), "a whole shard was built again"


@pytest.mark.slow
def test_a_build_killed_at_twenty_random_moments_ends_with_the_same_bytes(built, media, tmp_path):
    began_s = time.monotonic()
    assert build(media, tmp_path / "whole", "processes=2").returncode == 0
    whole_s = time.monotonic() - began_s
    draw, kills = random.Random(0), 0
    for attempt in range(100):
        out = tmp_path / f"out{attempt}"
        while kills < 20:
            process = start(media, out, "processes=2")
            time.sleep(draw.uniform(0, whole_s))
            process.kill()
            process.communicate()
            if process.returncode == 0:
                break  # it came to its end; the next one from the start
            kills += 1
            wait(lambda process=process: not running(process))
        assert build(media, out).returncode == 0
        assert contents(out) == contents(built[0])
        assert not [path for path in out.iterdir() if path.name.startswith(".")]
        if kills == 20:
            return
    raise AssertionError(f"only {kills} kills in 100 builds")


def test_a_full_disk_is_one_line_and_what_is_there_stays_whole(media, tmp_path):
    with tiny_disk(tmp_path, "300k") as disk:
        done = build(media, disk / "out", "processes=1", "decode.audio_format=wav")
        told = done.stderr.splitlines()[-1]
        assert (
            done.returncode == 1
            and told.startswith("error: No space left on device")
            and "Traceback" not in done.stderr
        )
        names = sorted(path.name for path in (disk / "out").iterdir())
        assert (
            names[0] == "build.json"
            and "manifest.json" not in names
            and all(name.startswith("train-") for name in names[1:])
        )
        assert any(name.endswith(".tar") for name in names)
        subprocess.run(["mount", "-o", "remount,size=20M", disk], check=True)
        assert build(media, disk / "out", "decode.audio_format=wav").returncode == 0
        assert json.loads((disk / "out/manifest.json").read_text())["written"] == 35


def test_versions_of_decoders_are_not_mixed_in_one_data_set(media, built, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(built[0], out)
    noted = json.loads((out / "build.json").read_text())
    noted["versions"]["av"] = "1.0"
    (out / "build.json").write_text(json.dumps(noted))
    assert build(media, out).returncode == 0, "a finished data set is left alone"
    (out / "manifest.json").unlink()
    done = build(media, out)
    assert (
        done.returncode == 2
        and "begun with other versions (av: 1.0 -> " in done.stderr
        and len(done.stderr.splitlines()) == 1
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["clips_per_shard=5"], "clips_per_shard: 4 -> 5"),
        (["decode.jpeg_quality=80", "seed=1"], "decode.jpeg_quality: 90 -> 80; seed: 0 -> 1"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_and_named(built, media, changes, said):
    before = contents(built[0])
    done = build(media, built[0], *changes)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
    assert contents(built[0]) == before


def test_another_table_of_rows_in_the_same_folder_is_refused(built, tmp_path):
    write_video(tmp_path / "media/v00.mp4")
    before = contents(built[0])
    done = build(tmp_path / "media", built[0])
    assert done.returncode == 2 and "the rows of the source's table" in done.stderr
    assert contents(built[0]) == before


def test_two_builds_do_not_write_one_folder(media, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    held = os.open(out, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    done = build(media, out)
    os.close(held)
    assert done.returncode == 2 and "is being written by another command" in done.stderr
