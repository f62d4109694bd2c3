"""The build command as a real process: its media, its words, and what it leaves running or lying about."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

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
    write_video(root / "v23.mp4", sound=False)
    (root / "v31.mp4").unlink()
    os.mkfifo(root / "v31.mp4")
    return root


def write_long_media(root: Path) -> Path:
    """The same, but for videos that take about half a second each."""
    write_media(root)
    long = write_video(root / "v00.mp4", duration_s=8.0, fps=24, size_px=(640, 480), gop=200)
    for path in root.iterdir():
        if path.stem not in BROKEN and path != long:
            path.unlink()
            os.link(long, path)
    return root


def words(media: Path, out: object, *more: str) -> list[str]:
    """Arguments of the command after `python -m`; one of `more` stands in for ours of the same key."""
    arguments = [f"source.root={media}", f"out={out}", *OURS, *more]
    return ["pipelines.build", *{argument.partition("=")[0]: argument for argument in arguments}.values()]


def start(
    media: Path, out: object, *more: str, env: dict[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.Popen:
    """The command, running in a session of its own as in a terminal; every process it starts can be told by `running`."""
    environment = {**os.environ, **(env or {}), _MARK: uuid.uuid4().hex}
    process = subprocess.Popen(
        [sys.executable, "-m", *words(media, out, *more)],
        **{
            "cwd": cwd,
            "env": environment,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "start_new_session": True,
        },
    )
    process.mark = environment[_MARK]
    return process


def build(
    media: Path, out: object, *more: str, env: dict[str, str] | None = None, timeout: float = 100
) -> subprocess.CompletedProcess:
    process = start(media, out, *more, env=env)
    stdout, stderr = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def running(process: subprocess.Popen) -> dict[int, str]:
    """Everything that a command has started, directly or not, and that still runs: command lines by process id."""
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
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.005)


def contents(out: Path) -> dict[str, bytes]:
    """Every file but the one that holds a time."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "stats.json"}
