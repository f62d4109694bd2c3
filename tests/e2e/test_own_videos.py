"""The six commands of README, "Your own videos", as they stand there, on 200 short videos of another world."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from markdown_blocks import code_blocks
from paths import ROOT

VIDEOS, SECONDS, FPS, RATE_HZ = 200, 3.4, 12, 44_100
FORMATS = {
    "mp4": ("libx264", "aac"),
    "mov": ("libx264", "aac"),
    "mkv": ("libx264", "aac"),
    "webm": ("libvpx", "libopus"),
}
# What shortens the training of the test; everything else is the command of the README.
SHORT = ["steps=40", "log_every_steps=10", "tracker=none"]


def _frames(number: int) -> Iterator[np.ndarray]:
    """A bar that sweeps over stripes; its direction and color differ from video to video."""
    draw = np.random.default_rng(number)
    color, is_vertical, speed = draw.integers(80, 256, 3), number % 2, 1 + number % 5
    stripes = np.tile(draw.integers(0, 60, (1, 96, 3)), (72, 1, 1)).astype(np.uint8)
    for frame in range(round(SECONDS * FPS)):
        picture = stripes.copy()
        at = frame * speed % (60 if is_vertical else 84)
        picture[(slice(None), slice(at, at + 12)) if not is_vertical else (slice(at, at + 12), slice(None))] = color
        yield picture


def _sound(number: int) -> np.ndarray:
    """A tone that wobbles, as int16 [1, S]."""
    time_s = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    tone = np.sin(2 * np.pi * (200 + 37 * (number % 20)) * time_s + 3 * np.sin(2 * np.pi * (1 + number % 7) * time_s))
    return (tone * 12_000).astype(np.int16)[None]


def _write_video(path: Path, number: int, has_sound: bool = True) -> None:
    video_codec, audio_codec = FORMATS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        video = container.add_stream(video_codec, rate=FPS)
        video.width, video.height, video.pix_fmt = 96, 72, "yuv420p"
        audio = (
            container.add_stream(audio_codec, rate=48_000 if audio_codec == "libopus" else RATE_HZ)
            if has_sound
            else None
        )
        for picture in _frames(number):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        if audio:
            frame = av.AudioFrame.from_ndarray(_sound(number), format="s16", layout="mono")
            frame.sample_rate = RATE_HZ
            container.mux(audio.encode(frame))
            container.mux(audio.encode())


def _commands() -> list[list[str]]:
    readme = (ROOT / "README.md").read_text()
    part = readme[readme.index("## Your own videos") :]
    return [shlex.split(line, comments=True) for line in code_blocks(part, "bash")[0].splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_six_commands_make_figures_of_200_short_videos(tmp_path):
    videos = tmp_path / "VIDEOS"
    for number in range(VIDEOS):
        folder = videos / f"{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        suffix = list(FORMATS)[number % len(FORMATS)]
        _write_video(folder / f"take {number}.{suffix}", number, has_sound=number != VIDEOS - 1)
    damaged = videos / "1/take 1.mov"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    (tmp_path / "clip.mp4").write_bytes((videos / "0/take 0.mp4").read_bytes())
    commands = _commands()
    assert len(commands) == 6
    for words in commands:
        is_training = words[1] == "train.py"
        program = [sys.executable, *([str(ROOT / "train.py")] if is_training else words[1:3])]
        arguments = [*words[2:], *SHORT] if is_training else words[3:]
        started = time.perf_counter()
        done = subprocess.run(
            [*program, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
            capture_output=True,
            text=True,
            timeout=900,
        )
        print(f"{time.perf_counter() - started:.0f} s  {shlex.join(words)}")  # shown by pytest -s
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    rejected = [json.loads(line) for line in (tmp_path / "data/shards/mine/rejected.jsonl").read_text().splitlines()]
    assert {row["id"].rpartition("take_")[2].partition("-")[0] for row in rejected} == {"1", "199"}
    assert re.search(r"take_\d+", (tmp_path / "clips.html").read_text())
    metrics = json.loads((tmp_path / "runs/mine/metrics.json").read_text())["metrics"]
    assert {"mine/audio_to_image/recall_at_10", "chance/mine/audio_to_image/recall_at_10"} <= metrics.keys()
    assert "recall@10" in (tmp_path / "runs/mine/report.html").read_text().lower()
    with av.open(str(tmp_path / "heatmap.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) >= SECONDS * FPS - 1
