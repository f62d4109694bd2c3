"""The build command, as real processes: every row accounted for, the same bytes after any interruption, one line for a wrong use."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_media import write_video

ROOT = Path(__file__).resolve().parent.parent
OURS = ["decode.short_side_px=32", "decode.frames_per_clip=2", "decode.min_duration_s=0.3"]
UNTIMED = {"stats.json"}  # the only file that holds a time


def command(root: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.build", f"source.root={root}", f"out={out}", *OURS, *more]


def build(root: Path, out: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(root, out, *more), cwd=ROOT, capture_output=True, text=True, timeout=60)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name not in UNTIMED}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """40 videos, of which 5 are broken in different ways."""
    root = tmp_path_factory.mktemp("media")
    first = write_video(root / "v00.mp4", duration_s=1.0, size_px=(320, 240), events_s=(0.3,))
    for number in range(1, 40):
        shutil.copy(first, root / f"v{number:02d}.mp4")
    (root / "v05.mp4").write_bytes(b"")
    (root / "v11.mp4").write_text("text")
    (root / "v17.mp4").write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    write_video(root / "v23.mp4", sound=False)
    (root / "v31.mp4").unlink()
    os.mkfifo(root / "v31.mp4")
    return root


@pytest.fixture(scope="module")
def built(media, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "out"
    done = build(media, out, "clips_per_shard=4", "processes=2")
    assert done.returncode == 0, done.stderr
    return out, done


def test_media_that_vanish_with_their_file_system_end_the_build_and_are_not_counted_as_missing(media, built, tmp_path):
    root, out = tmp_path / "mount", tmp_path / "out"
    root.symlink_to(media)
    process = subprocess.Popen(command(root, out, "clips_per_shard=4", "processes=1"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(out.glob("train-*.json")):
        time.sleep(0.001)
    root.unlink()
    told = process.communicate()[1]
    assert process.returncode == 1 and "the storage has failed" in told and "Traceback" not in told
    root.symlink_to(media)
    assert build(root, out, "clips_per_shard=4", "processes=1").returncode == 0
    assert contents(out) == contents(built[0])


@pytest.mark.parametrize("lost", ["train-000002.tar", "train-000002.json", "rejected.jsonl", "stats.json", "manifest.json"])
def test_what_was_lost_comes_back_by_the_same_command(media, built, tmp_path, lost):
    out = tmp_path / "out"
    shutil.copytree(built[0], out)
    before = contents(out)
    (out / lost).unlink()
    assert build(media, out, "clips_per_shard=4", "processes=2").returncode == 0
    assert contents(out) == before


def test_every_row_is_written_or_rejected_with_its_reason(built):
    out, done = built
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["rows"], manifest["written"], manifest["rejected"]) == (40, 35, 5)
    assert [shard["name"] for shard in manifest["shards"]] == [f"train-{number:06d}" for number in range(10)]
    ledger = {line["id"].split("-")[0]: line["reason"] for line in map(json.loads, (out / "rejected.jsonl").read_text().splitlines())}
    assert ledger == {"v05": "unreadable", "v11": "unreadable", "v17": "unreadable", "v23": "no_audio", "v31": "unreadable"}
    assert json.loads((out / "stats.json").read_text())["rejected"] == {"no_audio": 1, "unreadable": 4}
    assert "written           35   in 10 shards" in done.stdout and "no_audio 1, unreadable 4" in done.stdout
    assert "rejected=5" in done.stderr


def test_stock_webdataset_reads_every_shard(built):
    # In a process of its own: webdataset leaves files open, and a warning is an error here.
    code = (
        "import sys, json, webdataset\n"
        "for sample in webdataset.WebDataset(sys.argv[1:], shardshuffle=False).decode():\n"
        "    print(json.dumps([sample['__key__'], sample['json']['id'], sorted(key for key in sample if not key.startswith('__'))]))"
    )
    tars = sorted(map(str, built[0].glob("*.tar")))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *tars], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(samples) == len({key for key, _, _ in samples}) == 35
    assert all(key == described and members == ["0.jpg", "1.jpg", "flac", "json"] for key, described, members in samples)


def test_the_bytes_depend_neither_on_the_processes_nor_on_where_the_media_lie(built, media, tmp_path):
    (tmp_path / "elsewhere").symlink_to(media)
    assert build(tmp_path / "elsewhere", tmp_path / "out", "clips_per_shard=4", "processes=1").returncode == 0
    assert contents(tmp_path / "out") == contents(built[0])


def test_a_finished_data_set_is_left_alone(built, media):
    out, done = built
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")} | {out / "manifest.json": (out / "manifest.json").stat().st_mtime_ns}
    again = build(media, out, "clips_per_shard=4")
    assert again.returncode == 0 and again.stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def _alive(group: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def _wait(condition, seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.001)


@pytest.mark.parametrize(("sent", "shards"), [(signal.SIGKILL, 0), (signal.SIGKILL, 3), (signal.SIGKILL, 6), (signal.SIGINT, 2), (signal.SIGTERM, 4)])
def test_an_interrupted_build_ends_with_the_same_bytes(built, media, tmp_path, sent, shards):
    for attempt in range(5):  # a machine that stalls for a moment may see the build over before it is interrupted
        out = tmp_path / f"out{attempt}"
        running = subprocess.Popen(command(media, out, "clips_per_shard=4", "processes=1"), cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
        _wait(lambda out=out: len(list(out.glob("train-*.json"))) >= shards and list(out.glob(".train-*.tmp")))
        running.send_signal(sent)
        _, printed = running.communicate(timeout=30)
        if not (out / "manifest.json").exists():
            break
    assert running.returncode == (130 if sent == signal.SIGINT else -sent), printed[-2000:]
    assert b"Traceback" not in printed
    _wait(lambda: not _alive(running.pid))
    kept = {path: path.stat().st_mtime_ns for path in out.glob("train-*.json")}
    assert build(media, out, "clips_per_shard=4").returncode == 0
    assert contents(out) == contents(built[0])
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items()), "a whole shard was built again"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["clips_per_shard=5"], "clips_per_shard: 4 -> 5"),
        (["clips_per_shard=4", "decode.jpeg_quality=80", "seed=1"], "decode.jpeg_quality: 90 -> 80; seed: 0 -> 1"),
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
    done = build(tmp_path / "media", built[0], "clips_per_shard=4")
    assert done.returncode == 2 and "the rows of the source's table" in done.stderr
    assert contents(built[0]) == before


def test_two_builds_do_not_write_one_folder(media, tmp_path):
    import fcntl

    out = tmp_path / "out"
    out.mkdir()
    held = os.open(out, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    done = build(media, out)
    os.close(held)
    assert done.returncode == 2 and "is being written by another command" in done.stderr


def test_a_data_set_without_a_single_good_clip_answers_no(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.mp4").write_text("text")
    done = build(tmp_path / "media", tmp_path / "out")
    assert done.returncode == 1 and "no clip could be used" in done.stderr
    assert json.loads((tmp_path / "out/manifest.json").read_text())["rejected"] == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["source.kind=youtube"], "source.kind='youtube' is none of audioset, places_audio, vggsound, folder"),
        (["executor=cloud"], "executor='cloud' is none of local, slice, ray"),
        (["decode.audio_format=mp3"], "decode.audio_format='mp3' is none of flac, wav"),
        (["source.split=a/b"], "source.split='a/b' names the shards"),
        (["clips_per_shard=0"], "clips_per_shard=0 must be 1 or more"),
        (["decode.jpeg_quality=101"], "decode.jpeg_quality=101 must be 1 to 100"),
        (["decode.max_duration_s=0.2"], "decode.max_duration_s=0.2 must be 0.3 or more"),
        (["source.root=/nowhere"], "source.root='/nowhere' is not a folder"),
        (["out="], "out= is empty"),
    ],
)
def test_a_wrong_use_is_one_clear_line(media, tmp_path, changes, said):
    given = {argument.partition("=")[0]: argument for argument in [*command(media, tmp_path / "out")[3:], *changes]}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.build", *(a for a in given.values() if a != "out=")], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_empty_source_is_one_clear_line(tmp_path):
    (tmp_path / "media").mkdir()
    done = build(tmp_path / "media", tmp_path / "out")
    assert done.returncode == 2 and "has no usable row among 0 of split 'train'" in done.stderr
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_with_a_manifest_of_others_is_left_alone(media, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text("{}")
    done = build(media, tmp_path / "out")
    assert done.returncode == 2 and "this command did not write" in done.stderr
    assert contents(tmp_path / "out") == {"manifest.json": b"{}"}


def test_the_build_half_runs_where_torch_is_not_installed(media, tmp_path):
    code = (
        "import sys, runpy\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision', 'torchaudio', 'timm', 'accelerate'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from configs.command import run; from configs.schema import BuildConfig\n"
        "import pipelines.build.__main__ as build, pipelines.verify\n"
        "sys.exit(run(BuildConfig, '', build.main))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command(media, tmp_path / "out")[3:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
