"""Slices of a job array, as real processes that are killed, give byte-identical shards."""

import itertools
import json
import os
import re

import pytest
from tiny_builds import (
    SHARDS,
    build,
    contents,
    interrupt,
    running,
    start,
    wait,
)


@pytest.mark.parametrize("first", [0, 1])
def test_four_concurrent_slices_and_finish_equal_one_process(media, built_files, tmp_path, first):
    out = tmp_path / "out"
    slices = [start(media, out, "executor=slice", f"slice={part}/4", "processes=1") for part in range(first, first + 4)]
    for process in slices:
        printed, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert re.search(rf"slice=\d/4 is complete, \d of {SHARDS} shards", printed)
    assert not (out / "manifest.json").exists()
    done = build(media, out, "executor=slice", "slice=finish")
    assert done.returncode == 0 and f"in {SHARDS} shards" in done.stdout, done.stderr
    assert contents(out) == built_files
    again = build(media, out, "executor=slice", "slice=finish")
    assert again.returncode == 0 and again.stdout == done.stdout and contents(out) == built_files


@pytest.mark.slow
def test_finish_reports_a_killed_slice_that_then_resumes(media, built_files, tmp_path):
    out = tmp_path / "out"
    for part in (0, 2):
        assert build(media, out, "executor=slice", f"slice={part}/3").returncode == 0

    def start_slice(out):
        for path in itertools.chain.from_iterable(out.glob(f"train-00000{number}.*") for number in (1, 4, 7)):
            path.unlink()
        return start(media, out, "executor=slice", "slice=1/3", "processes=1")

    _, killed, _ = interrupt(start_slice, [out] * 5, lambda out: list(out.glob(".train-*.tmp")))
    wait(lambda: not running(killed))
    times = {path: path.stat().st_mtime_ns for path in out.glob("train-*.json")}
    early = build(media, out, "executor=slice", "slice=finish")
    assert early.returncode == 1 and len(early.stderr.splitlines()) == 1
    assert re.fullmatch(
        rf"error: {out}: \d+ of {SHARDS} shards are missing \(train-00000\d.*; run their slices first\n",
        early.stderr,
    )
    assert not (out / "manifest.json").exists()
    assert build(media, out, "executor=slice", "slice=1/3").returncode == 0
    assert build(media, out, "executor=slice", "slice=finish").returncode == 0
    assert contents(out) == built_files
    assert all(path.stat().st_mtime_ns == when for path, when in times.items()), "a finished shard was built again"


def test_slice_without_shards_succeeds(media, tmp_path):
    done = build(media, tmp_path / "out", "executor=slice", "slice=90/100")
    assert done.returncode == 0 and f"slice=90/100 is complete, 0 of {SHARDS} shards" in done.stdout


@pytest.mark.parametrize("text", ["5/4", "1/0", "a/b", "3", "/", "-1/4", "1/4/2", "0.5/2", "Finish"])
def test_invalid_slice_is_a_one_line_error(media, tmp_path, text):
    done = build(media, tmp_path / "out", "executor=slice", f"slice={text}")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "I/N, for example 3/100" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_slice_0_of_n_equals_slice_n_of_n(media, tmp_path):
    for text in ("0/4", "4/4"):
        assert build(media, tmp_path / text[0], "executor=slice", f"slice={text}").returncode == 0
    assert contents(tmp_path / "0") == contents(tmp_path / "4")


def test_every_shard_stores_its_build_hash_and_no_host_name(built_files):
    text = json.dumps([json.loads(data) for name, data in built_files.items() if name.endswith(".json")])
    assert os.uname().nodename not in text and "recipe" in text
