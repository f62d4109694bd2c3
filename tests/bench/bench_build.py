"""Clips per second and core of the whole build (frames, resizing, JPEG, audio, FLAC, tar), relative to ffmpeg.

`python tests/bench/bench_build.py [rounds]` compares with `ffmpeg -threads 1 -i clip -an -f null -` on the same clips:
10 s of 640x360 H.264 (30 frames per second, three B-frames, a keyframe every 5 s) and 44.1 kHz stereo AAC. Everything
runs on one core, in turns; the result is the median over the rounds of the ratio within a round. Target (issue 3):
exact 0.85, fast 1.1, keyframes 2.5; two processes 1.8 times one; under 500 MB with an hour-long input.
"""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from configs.schema import DecodeConfig  # noqa: E402
from pipelines.build.decode.clip import decode_clip  # noqa: E402
from pipelines.build.decode.ffmpeg_fallback import ffmpeg_program  # noqa: E402
from pipelines.build.tar_writer import add_members, open_tar_writer  # noqa: E402
from pipelines.manifest import Clip  # noqa: E402
from pipelines.modalities.encode import encode_clip  # noqa: E402

CLIPS = 6
FFMPEG = ffmpeg_program()
WAYS = {  # name: settings, wanted ratio
    "exact, pyav": (DecodeConfig(mode="exact", decoder="pyav"), 0.85),
    "exact, decord": (DecodeConfig(mode="exact", decoder="decord"), None),
    "fast, pyav": (DecodeConfig(mode="fast", decoder="pyav"), 1.1),
    "keyframes, pyav": (DecodeConfig(mode="keyframes", decoder="pyav"), 2.5),
    "keyframes, decord": (DecodeConfig(mode="keyframes", decoder="decord"), None),
}


def make_clip(path: Path, seed: int, duration_s: float = 10.0) -> None:
    """A drifting fractal with grain, and a chirp in noise: about as hard to code as a video from the web."""
    picture = f"mandelbrot=s=640x360:rate=30:start_scale={0.3 + 0.05 * seed}:end_scale=0.02:end_pts=900,"
    picture += f"noise=alls=6:allf=t+u:all_seed={seed},format=yuv420p"
    sound = f"aevalsrc=0.3*sin(2*PI*(200+20*t)*t)+0.05*random({seed})|0.3*sin(2*PI*330*t):s=44100"
    inputs = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound]
    video = [
        "-c:v",
        "libx264",
        "-preset",
        "medium",
        "-crf",
        "26",
        "-bf",
        "3",
        "-g",
        "150",
        "-keyint_min",
        "150",
        "-sc_threshold",
        "0",
    ]
    subprocess.run(
        [FFMPEG, "-v", "error", "-y", *inputs, "-t", str(duration_s), *video, "-c:a", "aac", "-b:a", "128k", path],
        check=True,
    )


def floor(media: list[Path]) -> None:
    for path in media:
        subprocess.run([FFMPEG, "-v", "error", "-threads", "1", "-i", path, "-an", "-f", "null", "-"], check=True)


def ours(media: list[Path], settings: DecodeConfig) -> None:
    with open_tar_writer(io.BytesIO()) as tar:
        for path in media:
            clip = Clip(id=path.stem, media=path.name, end_s=10.0)
            add_members(tar, clip.id, encode_clip(clip, decode_clip(clip, path.parent, settings), settings))


def seconds(work: Callable, *arguments) -> float:
    began_s = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began_s


def rates(media: list[Path], rounds: int) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for settings, _ in WAYS.values():
        ours(media[:1], settings)
    floors, ratios = [], {name: [] for name in WAYS}
    for _ in range(rounds):
        floors.append(seconds(floor, media))
        for name, (settings, _) in WAYS.items():
            ratios[name].append(floors[-1] / seconds(ours, media, settings))
    print(f"{'':<22}{'clips/s':>9}{'ratio':>8}{'wanted':>8}")
    floor_rate = len(media) / statistics.median(floors)
    print(f"{'ffmpeg, decoding only':<22}{floor_rate:>9.2f}{1:>8.2f}")
    for name, (_, wanted) in WAYS.items():
        ratio = statistics.median(ratios[name])
        print(f"{name:<22}{floor_rate * ratio:>9.2f}{ratio:>8.2f}{wanted or '':>8}")


def scaling(folder: Path) -> None:
    """Two processes against one, by the command itself; what its start costs is taken off."""
    for number in range(40):
        (folder / f"copy{number}.mp4").hardlink_to(folder / f"clip{number % CLIPS}.mp4")

    def build(processes: int, clips: int) -> float:
        with tempfile.TemporaryDirectory() as out:
            (Path(out) / "media").mkdir()
            for number in range(clips):
                (Path(out) / f"media/{number}.mp4").hardlink_to(folder / f"copy{number}.mp4")
            arguments = [
                f"source.root={out}/media",
                f"out={out}/out",
                f"processes={processes}",
                "clips_per_shard=2",
                "decode.max_duration_s=10",
            ]
            command = [sys.executable, "-m", "pipelines.build", *arguments]
            return seconds(lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True))

    def work(processes: int) -> float:
        return min(build(processes, 40) for _ in range(2)) - min(build(processes, 4) for _ in range(2))

    one, two = work(1), work(2)
    print(f"two processes against one: {one / two:.2f} (wanted 1.8)")


def memory_mb(path: Path) -> float:
    """Peak memory of a fresh process that takes a clip from the end of an hour."""
    import resource

    clip = Clip(id="a", media=path.name, start_s=3500.0, end_s=3510.0)
    encode_clip(clip, decode_clip(clip, path.parent, DecodeConfig()), DecodeConfig())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        media = [folder / f"clip{number}.mp4" for number in range(CLIPS)]
        for number, path in enumerate(media):
            make_clip(path, number)
        context = get_context("spawn")
        process = context.Process(target=rates, args=(media, rounds))
        process.start()
        process.join()
        scaling(folder)
        parts = folder / "parts.txt"
        parts.write_text("".join(f"file '{media[number % CLIPS]}'\n" for number in range(360)))
        subprocess.run(
            [FFMPEG, "-v", "error", "-f", "concat", "-safe", "0", "-i", parts, "-c", "copy", folder / "hour.mp4"],
            check=True,
        )
        with context.Pool(1) as pool:
            print(
                f"memory with an hour-long input: {pool.apply(memory_mb, (folder / 'hour.mp4',)):.0f} MB (target 500)"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
