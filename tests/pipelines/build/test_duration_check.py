"""Before a build, the durations of a sample of files are compared with their rows; clips that are cut are counted."""

import json
import subprocess
import sys
import tarfile

import pytest
from paths import ROOT
from tiny_media import write_video

from configs.schema import BuildConfig, DecodeConfig, SourceConfig
from pipelines.build.duration_check import warn_of_durations
from pipelines.manifest import Clip, Rejected


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("media")
    write_video(root / "cut.mp4", 2.0, events_s=(0.5,))
    write_video(root / "whole.mp4", 6.0, events_s=(0.5, 4.5))
    (root / "broken.mp4").write_text("no video")
    return root


def _warnings(capsys, root, rows, is_cut, **decode):
    source = SourceConfig(kind="audioset", root=str(root), media_is_cut=is_cut)
    warn_of_durations(BuildConfig(source=source, decode=DecodeConfig(**decode)), rows)
    return capsys.readouterr().err.splitlines()


def _clip(media, start_s=0.0, end_s=0.0):
    return Clip(id="a", media=media, start_s=start_s, end_s=end_s)


def test_full_videos_where_cut_ones_are_expected_are_counted(root, capsys):
    rows = [_clip("cut.mp4", 0, 2), _clip("whole.mp4", 0, 2), _clip("broken.mp4", 0, 2), _clip("none.mp4", 0, 2)]
    (line,) = _warnings(capsys, root, [Rejected("x", "bad_row", ""), *rows], is_cut=True)
    assert line.startswith("durations: 1 of 2 sampled files, first 'whole.mp4' (6.0 s), are over 1.5 times as long as")
    assert line.endswith("set source.media_is_cut=false")
    assert not _warnings(capsys, root, rows[:1], is_cut=True)


def test_cut_videos_where_full_ones_are_expected_are_counted(root, capsys):
    (line,) = _warnings(capsys, root, [_clip("cut.mp4", 4, 6), _clip("whole.mp4", 4, 6)], is_cut=False)
    assert line.startswith("durations: 1 of 2 sampled files, first 'cut.mp4' (2.0 s), end before their segment starts")
    assert line.endswith("set source.media_is_cut=true")


def test_clips_that_are_cut_to_the_maximum_are_counted(root, capsys):
    rows = [_clip("whole.mp4"), _clip("cut.mp4"), _clip("whole.mp4", 1, 5.5), _clip("whole.mp4", 3, 9)]
    (line,) = _warnings(capsys, root, rows, is_cut=False, max_duration_s=3.0)
    assert line.startswith("durations: 2 of 4 sampled files, first 'whole.mp4' (6.0 s), are cut to their first")


def _build(*words):
    command = [sys.executable, "-m", "pipelines.build", "decode.short_side_px=16", "decode.frames_per_clip=30", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def _metadata(out):
    with tarfile.open(out / "train-000000.tar") as tar:
        members = [tar.extractfile(name).read() for name in tar.getnames() if name.endswith(".json")]
    return {row["media"]: row for row in map(json.loads, members)}


def test_cut_clips_are_counted_in_the_summary_and_state_their_full_duration(root, tmp_path):
    out = tmp_path / "out"
    done = _build("source.kind=folder", f"source.root={root}", f"out={out}", "decode.max_duration_s=3")
    assert done.returncode == 0, done.stderr
    assert "durations: 1 of 2 sampled files, first 'whole.mp4' (6.0 s), are cut" in done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("cut")] == [["cut", "1"]]
    assert json.loads((out / "stats.json").read_text())["cut"] == 1
    rows = _metadata(out)
    assert rows["whole.mp4"]["full_duration_s"] == pytest.approx(6.0) and rows["whole.mp4"]["end_s"] == 3.0
    assert "full_duration_s" not in rows["cut.mp4"]


def test_data_set_without_cut_clips_has_no_new_keys(root, tmp_path):
    out = tmp_path / "out"
    assert _build("source.kind=folder", f"source.root={root}", f"out={out}").returncode == 0
    assert set(json.loads((out / "stats.json").read_text())) == {
        "rows", "written", "rejected", "size_bytes", "build_seconds"
    }  # fmt: skip
    assert "cut" not in json.loads((out / "train-000000.json").read_text())


def test_dry_run_prints_the_same_warning(root):
    done = _build("source.kind=folder", f"source.root={root}", "dry_run=true", "decode.max_duration_s=3")
    assert done.returncode == 0 and "sampled files, first 'whole.mp4' (6.0 s), are cut" in done.stderr
