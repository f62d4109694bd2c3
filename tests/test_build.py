"""The build command, as real processes: every row accounted for, the same bytes after any interruption, one line for a wrong use."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
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


@pytest.mark.slow
def test_a_build_killed_at_twenty_random_moments_ends_with_the_same_bytes(built, media, tmp_path):
    began_s = time.monotonic()
    assert build(media, tmp_path / "whole", "clips_per_shard=4", "processes=2").returncode == 0
    whole_s = time.monotonic() - began_s
    draw, kills = random.Random(0), 0
    for attempt in range(100):
        out = tmp_path / f"out{attempt}"
        while kills < 20:
            running = subprocess.Popen(command(media, out, "clips_per_shard=4", "processes=2"), cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
            time.sleep(draw.uniform(0, whole_s))
            if running.poll() is not None:
                break  # it came to its end; the next one from the start
            running.send_signal(signal.SIGKILL)
            running.wait()
            kills += 1
            _wait(lambda pid=running.pid: not _alive(pid))
        assert build(media, out, "clips_per_shard=4").returncode == 0
        assert contents(out) == contents(built[0])
        assert not [path for path in out.iterdir() if path.name.startswith(".")]
        if kills == 20:
            return
    raise AssertionError(f"only {kills} kills in 100 builds")


def test_rejected_clips_are_tried_again_where_their_media_have_changed(media, built, tmp_path):
    mine = tmp_path / "media"
    shutil.copytree(media, mine, copy_function=os.link, ignore=lambda *_: ["v31.mp4"])
    os.mkfifo(mine / "v31.mp4")
    out = tmp_path / "out"
    assert build(mine, out, "clips_per_shard=4").returncode == 0
    assert contents(out) == contents(built[0])
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    unchanged = build(mine, out, "clips_per_shard=4", "retry=rejected")
    assert unchanged.returncode == 0 and contents(out) == contents(built[0])
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")} == times

    for name in ("v05.mp4", "v31.mp4"):
        (mine / name).unlink()
        os.link(mine / "v00.mp4", mine / name)
    (mine / "v11.mp4").unlink()
    (mine / "v11.mp4").write_text("another text")
    assert build(mine, out, "clips_per_shard=4").returncode == 0
    assert contents(out) == contents(built[0]), "only retry=rejected looks at them"
    done = build(mine, out, "clips_per_shard=4", "retry=rejected")
    assert done.returncode == 0 and "written           37" in done.stdout
    touched = [path.name for path in out.glob("*.tar") if path.stat().st_mtime_ns != times[path.name]]
    assert 1 <= len(touched) <= 3
    assert build(mine, tmp_path / "fresh", "clips_per_shard=4").returncode == 0
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_is_one_line_and_what_is_there_stays_whole(media, small_disk):
    done = build(media, small_disk / "out", "clips_per_shard=4", "processes=1", "decode.audio_format=wav")
    told = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and told.startswith("error: No space left on device") and "Traceback" not in done.stderr
    names = sorted(path.name for path in (small_disk / "out").iterdir())
    assert names[0] == "build.json" and "manifest.json" not in names and all(name.startswith("train-") for name in names[1:])
    assert any(name.endswith(".tar") for name in names)
    subprocess.run(["mount", "-o", "remount,size=20M", small_disk], check=True)
    assert build(media, small_disk / "out", "clips_per_shard=4", "decode.audio_format=wav").returncode == 0
    assert json.loads((small_disk / "out/manifest.json").read_text())["written"] == 35


def test_versions_of_decoders_are_not_mixed_in_one_data_set(media, built, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(built[0], out)
    noted = json.loads((out / "build.json").read_text())
    noted["versions"]["av"] = "1.0"
    (out / "build.json").write_text(json.dumps(noted))
    assert build(media, out, "clips_per_shard=4").returncode == 0, "a finished data set is left alone"
    (out / "manifest.json").unlink()
    done = build(media, out, "clips_per_shard=4")
    assert done.returncode == 2 and "begun with other versions (av: 1.0 -> " in done.stderr and len(done.stderr.splitlines()) == 1


def test_everything_that_comes_in_goes_out_written_or_rejected(tmp_path):
    """All the kinds of media and keys that are found in the wild, in one build."""
    root = tmp_path / "media"
    (root / "videos").mkdir(parents=True)
    good = write_video(root / "videos/good.mp4")

    def link(name: str) -> None:
        os.link(good, root / "videos" / name)

    write_video(root / "videos/variable.mp4", frame_numbers=[0, 1, 2, 13, 14, 19])
    write_video(root / "videos/odd.mp4", size_px=(65, 47))
    write_video(root / "videos/mute.mp4", sound=False)
    write_video(root / "videos/blind.mp4", picture=False)
    write_video(root / "videos/one.mp4", frame_numbers=[0])
    write_video(root / "videos/five.mp4", waveform=np.random.default_rng(0).normal(0, 0.1, (6, 96000)).astype(np.float32), layout="5.1", rate_hz=48000)
    write_video(root / "videos/low.mp4", rate_hz=8000)
    write_video(root / "videos/high.mp4", rate_hz=96000)
    (root / "videos/empty.mp4").touch()
    (root / "videos/text.mp4").write_text("text")
    (root / "videos/folder.mp4").mkdir()
    os.mkfifo(root / "videos/fifo.mp4")
    (root / "videos/cut.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    link("concat:a%03d.mp4")
    ids = ["good", "variable", "odd", "mute", "blind", "one", "five", "low", "high", "empty", "text", "folder", "fifo", "cut", "absent", "concat:a%03d"]
    lines = [f'{name}, 0, 2, "/m/1"' for name in ids] + ['good, 0, 2, "/m/2"', 'good, 1, 9, "/m/1"', 'good, 5, 9, "/m/1"', 'good, 9, 5, "/m/1"']
    lines += ['../../etc/passwd, 0, 2, "/m/1"', 'a.b, 0, 2, "/m/1"', 'a/b, 0, 2, "/m/1"', "nonsense", 'x, nan, 2, "/m/1"', f'{"y" * 300}, 0, 2, "/m/1"']
    (root / "eval_segments.csv").write_text("\n".join(lines))
    done = build(root, tmp_path / "out", "source.kind=audioset", "source.split=eval", "source.media=videos/{ytid}.mp4", "clips_per_shard=7")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    ledger = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    written = {clip["id"] for index in (tmp_path / "out").glob("eval-*.json") for clip in json.loads(index.read_text())["members"]}
    assert manifest["rows"] == len(lines) == manifest["written"] + manifest["rejected"] == len(written) + len(ledger)
    assert written == {"good_0", "variable_0", "odd_0", "five_0", "low_0", "high_0", "good_1000"}
    reasons = {(line["id"][:20], line["reason"]) for line in ledger}
    assert {("mute_0", "no_audio"), ("blind_0", "no_video"), ("one_0", "static"), ("absent_0", "missing"), ("good_5000", "outside_file")} <= reasons
    assert {(f"{name}_0", "unreadable") for name in ("empty", "text", "folder", "fifo", "cut")} <= reasons
    assert {("good_0", "duplicate_id"), ("good_9000", "bad_times"), ("a.b_0", "bad_id"), ("a/b_0", "bad_id"), ("nonsense", "bad_row")} <= reasons
    assert "missing: " in done.stderr and "videos/absent.mp4" in done.stderr


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
