"""The build command as a real process: its media, its arguments, and the processes and files that it leaves."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import ROOT
from tiny_media import write_video

OURS = ["decode.short_side_px=32", "decode.frames_per_clip=2", "decode.min_duration_s=0.3", "clips_per_shard=4"]
SHARDS = 10
_MARK = "BUILD_UNDER_TEST"


BROKEN = {"v05": "unreadable", "v11": "unreadable", "v17": "unreadable", "v23": "no_audio", "v31": "unreadable"}


def write_media(root: Path) -> Path:
    """40 videos, of which five are broken in different ways: ten shards."""
    first = write_video(root / "v00.mp4", duration_s=1.0, size_px=(320, 240), events_s=(0.3,))
    for number in range(1, 4 * SHARDS):
        shutil.copy(first, root / f"v{number:02d}.mp4")
    (root / "v05.mp4").write_bytes(b"")
    (root / "v11.mp4").write_text("text")
    (root / "v17.mp4").write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    write_video(root / "v23.mp4", audio=False)
    (root / "v31.mp4").unlink()
    os.mkfifo(root / "v31.mp4")
    return root


def write_long_media(root: Path) -> Path:
    """As `write_media`, with videos that take about half a second each to decode."""
    write_media(root)
    long = write_video(root / "v00.mp4", duration_s=8.0, fps=24, size_px=(640, 480), gop=200)
    for path in root.iterdir():
        if path.stem not in BROKEN and path != long:
            path.unlink()
            os.link(long, path)
    return root


def words(media: Path, out: object, *more: str) -> list[str]:
    """Arguments of the command after `python -m`; those in `more` override the defaults."""
    arguments = [f"source.root={media}", f"out={out}", *OURS, *more]
    return ["pipelines.build", *{argument.partition("=")[0]: argument for argument in arguments}.values()]


def start(
    media: Path, out: object, *more: str, env: dict[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.Popen:
    """Start the command in a session of its own, as in a terminal; `running` finds every process that it starts."""
    environment = {**os.environ, **(env or {}), _MARK: uuid.uuid4().hex}
    process = subprocess.Popen(
        [sys.executable, "-m", *words(media, out, *more)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    process.mark = environment[_MARK]
    return process


def build(
    media: Path, out: object, *more: str, env: dict[str, str] | None = None, timeout: float = 100
) -> subprocess.CompletedProcess:
    process = start(media, out, *more, env=env)
    stdout, stderr = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def interrupt(
    begin: Callable[[object], subprocess.Popen],
    outs: list,
    is_time: Callable[[object], bool],
    act: Callable[[subprocess.Popen], None] = subprocess.Popen.kill,
) -> tuple[object, subprocess.Popen, str]:
    """Interrupt a build before it is complete, at a moment that does not depend on the speed of the machine.

    When the moment has come, the build is stopped (SIGSTOP) and the moment is checked again before it is interrupted. A
    build that is complete before that is started again with the next of `outs`.

    Args:
        begin: starts the build that writes to a given folder.
        outs: folders to try one after the other; any object that `begin` and `is_time` take.
        is_time: whether the moment has come for a folder.
        act: what interrupts the process.

    Returns:
        The folder, the ended process, and what it printed to stderr.
    """
    for out in outs:
        process = begin(out)
        while process.poll() is None:
            if not is_time(out):
                time.sleep(0.005)
                continue
            os.killpg(process.pid, signal.SIGSTOP)
            is_still_time = is_time(out)
            if is_still_time:
                act(process)
            os.killpg(process.pid, signal.SIGCONT)
            if is_still_time:
                break
        _, printed = process.communicate(timeout=60)
        if process.returncode != 0:
            return out, process, printed
    raise AssertionError(f"{len(outs)} builds were complete before they could be interrupted")


def running(process: subprocess.Popen) -> dict[int, str]:
    """Command lines by process id of everything that a command has started, directly or not, and that still runs."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{_MARK}={process.mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def wait(condition, seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not true within {seconds} s"
        time.sleep(0.005)


def contents(out: Path) -> dict[str, bytes]:
    """Content by name of every file but stats.json, which holds a time."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "stats.json"}


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """A folder of 40 videos."""
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def built(media, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The folder that two processes build, and the finished command."""
    out = tmp_path_factory.mktemp("built") / "out"
    done = build(media, out, "processes=2")
    assert done.returncode == 0, done.stderr
    return out, done


@pytest.fixture(scope="module")
def built_files(media, tmp_path_factory) -> dict[str, bytes]:
    """The files that one process builds."""
    out = tmp_path_factory.mktemp("built") / "out"
    assert build(media, out, "processes=1").returncode == 0
    return contents(out)
