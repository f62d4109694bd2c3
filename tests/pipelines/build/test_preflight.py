"""Checks before a build: missing media are counted, and a dry run estimates the build without writing."""

import json
import subprocess
import sys

import pytest
from paths import ROOT
from tiny_media import write_video

from configs.errors import UsageError
from configs.schema import BuildConfig, SourceConfig
from pipelines.build.preflight import MediaCheck, print_idle_processes
from pipelines.download.ledger import Ledger, ledger_path
from pipelines.manifest import Clip, Rejected


def _counted(root, rows):
    media_check = MediaCheck(root)
    assert list(media_check.count(rows)) == rows
    return media_check


def _clips(*names):
    return [Clip(id=f"c{number}", media=name) for number, name in enumerate(names)]


def test_clips_with_missing_media_are_counted_and_the_first_is_named(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").touch()
    media_check = _counted(
        tmp_path, [*_clips("videos/a.mp4", "videos/b.mp4", "other/c.mp4"), Rejected("x", "bad_row", "")]
    )
    assert (media_check.rows, media_check.missing) == (4, 2)
    media_check.print_missing(SourceConfig())
    assert capsys.readouterr().err == "missing: 2 of 4 rows (50.0 %) have no media file, the first is 'videos/b.mp4'\n"


def test_missing_clips_are_told_apart_by_the_ledgers_of_a_download(tmp_path, capsys):
    for number, statuses in enumerate((["gone", "retry", "not_here"], ["done", "gone"])):
        with Ledger(ledger_path(tmp_path, number, 2)) as ledger:
            for row, status in enumerate(statuses):
                ledger.add(f"c{row + 3 * number}", status)
    (tmp_path / "f.mp4").touch()
    media_check = _counted(tmp_path, _clips("a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "f.mp4", "g.mp4"))
    media_check.print_missing(SourceConfig(kind="audioset", root="data", split="eval"))
    assert capsys.readouterr().err == (
        "missing: 6 of 7 rows (85.7 %) have no media file, the first is 'a.mp4'; 2 of them are gone, 1 not available "
        "here, 1 to be tried again, 2 were never tried; to download them: python -m pipelines.download "
        "config=configs/download/audioset.yaml source.root=data source.split=eval\n"
    )


def test_nothing_is_printed_if_no_media_are_missing(tmp_path, capsys):
    (tmp_path / "a.mp4").touch()
    _counted(tmp_path, _clips("a.mp4")).print_missing(SourceConfig())
    assert capsys.readouterr().err == ""


def test_missing_image_counts_as_missing_media(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "a.jpg").touch()
    rows = [Clip(id=f"c{number}", media="a.wav", image=image) for number, image in enumerate(["a.jpg", "b.jpg", ""])]
    media_check = _counted(tmp_path, rows)
    assert (media_check.missing, media_check.first_missing) == (1, "b.jpg")


def test_folder_is_listed_once(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").touch()
    media_check = MediaCheck(tmp_path)
    assert len(list(media_check.count(_clips("videos/a.mp4")))) == 1
    (tmp_path / "videos/b.mp4").touch()  # after the listing
    assert len(list(media_check.count(_clips("videos/a.mp4", "videos/b.mp4")))) == 2
    assert (media_check.missing, media_check.first_missing) == (1, "videos/b.mp4")


@pytest.mark.parametrize("more", [[], [Rejected("x", "bad_row", "")]])
def test_all_media_missing_is_a_one_line_error_with_the_first_path(tmp_path, more):
    media_check = _counted(tmp_path, [*_clips("videos/a\nb.mp4", "videos/c.mp4"), *more])
    message = r"have no media file, the first is 'videos/a\\nb.mp4'; is source.media='v' correct\? pipelines/sources"
    with pytest.raises(UsageError, match=message) as raised:
        media_check.print_missing(SourceConfig(kind="audioset", root=str(tmp_path), media="v"))
    assert len(str(raised.value).splitlines()) == 1


def test_folders_outside_the_root_are_not_listed(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/a.mp4").touch()
    (tmp_path / "root").mkdir()
    outside = _clips(
        "../secret/a.mp4",
        f"{tmp_path}/secret/a.mp4",
        "x/../../secret/a.mp4",
        "nul\0/a.mp4",
        "\ud800/a.mp4",
        "x" * 300 + "/a.mp4",
    )
    assert _counted(tmp_path / "root", outside).missing == 6


@pytest.mark.parametrize(
    ("config", "rows", "shards", "message"),
    [
        (
            BuildConfig(processes=8),
            100,
            1,
            "processes: only 1 of 8 have work, because clips_per_shard=1000 divides 100 ",
        ),
        (BuildConfig(processes=8, clips_per_shard=40), 100, 3, "into 3 shards; clips_per_shard=13 would use all\n"),
        (BuildConfig(processes=3), 3, 3, ""),
        (BuildConfig(processes=8), 1, 1, ""),
        (BuildConfig(executor="slice", slice="3/20"), 5000, 5, "slices: only 5 of 20 have work"),
        (BuildConfig(executor="ray"), 5000, 5, ""),
    ],
)
def test_shards_that_leave_processes_idle_are_said(capsys, config, rows, shards, message):
    print_idle_processes(config, rows, shards)
    printed = capsys.readouterr().err
    assert message in printed and bool(printed) == bool(message) and len(printed.splitlines()) <= 1


def test_build_says_before_the_work_that_processes_are_idle(audioset_root, tmp_path):
    words = ["source.media_is_cut=true", "source.split=eval", f"out={tmp_path}/out", "processes=3"]
    command = [sys.executable, "-m", "pipelines.build", "source.kind=audioset", f"source.root={audioset_root}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.index("processes: only 1 of 3 have work") < done.stderr.index("shards:")


def _dry_run(root, *more, kind="audioset"):
    words = [
        f"source.kind={kind}",
        f"source.root={root}",
        "source.split=eval",
        "source.media_is_cut=true",
        "dry_run=true",
        *more,
    ]
    return subprocess.run(
        [sys.executable, "-m", "pipelines.build", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def audioset_root(tmp_path_factory):
    """Four rows with three videos, one of them broken, and one malformed row."""
    root = tmp_path_factory.mktemp("audioset")
    for number in range(2):
        write_video(root / f"videos/v{number}_0.mp4", duration_s=2.0, events_s=(0.5,))
    (root / "videos/v2_0.mp4").write_text("no video")
    (root / "eval_segments.csv").write_text("".join(f'v{number}, 0, 2, "/m/a"\n' for number in range(4)) + "broken\n")
    return root


def test_dry_run_estimates_the_build_and_writes_nothing(audioset_root, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in audioset_root.rglob("*")}
    done = _dry_run(audioset_root)
    assert done.returncode == 0, done.stderr
    lines = {line[:14].strip(): line[14:].split() for line in done.stdout.splitlines()}
    assert list(lines) == ["rows", "missing", "reads", "writes", "clips", "core hours"]
    assert lines["rows"] == ["5"]
    assert lines["missing"] == ["1", "20.0", "%"]
    assert lines["clips"][0] == "2" and "2 of 3 decoded (1 unreadable)" in done.stdout
    assert "in 1 shards" in done.stdout and "decode.mode=exact" in done.stdout
    assert all(float(lines[name][0]) > 0 for name in ("reads", "writes", "core hours")) and lines["reads"][1] == "MB"
    assert {path: path.stat().st_mtime_ns for path in audioset_root.rglob("*")} == before
    assert not list(tmp_path.iterdir())


def test_dry_run_does_not_create_the_output_folder(audioset_root, tmp_path):
    assert _dry_run(audioset_root, f"out={tmp_path}/out").returncode == 0
    assert not list(tmp_path.iterdir())


def test_dry_run_without_any_media_prints_counts(audioset_root):
    done = _dry_run(audioset_root, "source.media=elsewhere/{id}.mp4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["missing", "4", "80.0", "%"]


def test_dry_run_counts_overlong_file_names_as_missing(tmp_path):
    (tmp_path / "metadata").mkdir()
    items = [{"uttid": f"u{number}", "wav": "x" * 300 + ".wav", "image": "a\ud800.jpg"} for number in range(2)]
    (tmp_path / "metadata/eval.json").write_text(json.dumps({"data": items}))
    done = _dry_run(tmp_path, kind="places_audio")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["missing", "2", "100.0", "%"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "has no usable row among 0 of split 'eval'"),
        ("broken\nlines\n", "has no usable row among 2 of split 'eval'"),
    ],
)
def test_dry_run_without_a_usable_row_is_a_one_line_error(tmp_path, table, message):
    (tmp_path / "eval_segments.csv").write_text(table)
    done = _dry_run(tmp_path)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
