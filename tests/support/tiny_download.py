"""The download command against a server on loopback: its media, its table, and the files that it leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

from media_server import MediaServer
from paths import ROOT
from tiny_media import write_video

EVENT_S = 7.4


def write_source(folder: Path, name: str = "source.mp4", **options) -> Path:
    """20 s of video with a flash and a click at EVENT_S and a keyframe every 4 s."""
    defaults = {
        "duration_s": 20.0, "fps": 25, "size_px": (64, 48), "events_s": (EVENT_S,), "gop": 100,
        "options": {"movflags": "faststart"},
    }  # fmt: skip
    return write_video(folder / name, **defaults | options)


def write_table(root: Path, *segments: tuple[str, float, float]) -> Path:
    """An AudioSet table of the split eval."""
    root.mkdir(parents=True, exist_ok=True)
    lines = [f'{ytid}, {start_s:.3f}, {end_s:.3f}, "/m/1"\n' for ytid, start_s, end_s in segments]
    (root / "eval_segments.csv").write_text("".join(lines))
    return root


def command(server: MediaServer, root: Path, *more: str) -> list[str]:
    """Arguments of a download of the videos of /watch?v={ytid}; those in `more` override the defaults."""
    arguments = [
        "source.kind=audioset", f"source.root={root}", "source.split=eval", f"url={server.address}/watch?v={{ytid}}",
        "clips_per_hour=0", "retries=1", "timeout_s=5", *more,
    ]  # fmt: skip
    return [*{argument.partition("=")[0]: argument for argument in arguments}.values()]


def environment(**more: str) -> dict[str, str]:
    """The environment in which yt-dlp finds the extractor of the tests, and no settings of the user."""
    paths = [str(ROOT / "tests/support"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def start(*arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.download", *arguments],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def download(*arguments: str, timeout_s: float = 100, **options) -> subprocess.CompletedProcess:
    process = start(*arguments, **options)
    stdout, stderr = process.communicate(timeout=timeout_s)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def last_line(done: subprocess.CompletedProcess) -> str:
    """The error of a command."""
    return done.stderr.strip().splitlines()[-1]


def ledger(root: Path, name: str = "download.jsonl") -> dict[str, dict]:
    """The entries of a ledger by id, each of which must be there once."""
    lines = [json.loads(line) for line in (root / name).read_text().splitlines()]
    entries = {line["id"]: line for line in lines}
    assert len(entries) == len(lines)
    return entries


def video_page(url: str = "source.mp4", **more) -> dict:
    """A page with one format."""
    return {"formats": [{"format_id": "1", "url": url, "ext": "mp4", "height": 48, "width": 64}], **more}
