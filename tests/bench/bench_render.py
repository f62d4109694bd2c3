"""Rendering of videos on two CPU threads. `python tests/bench/bench_render.py [speed|memory|all] [seconds]`

speed: processor time of `render_video` (view=heatmap), all of it, divided by that of the model's own image and audio
encoders alone on the same frames and audio windows; ViT-S/8 and HuBERT large with random weights, 640 x 360 px, 25
frames per second. The two are measured in turn, so that both see the same load. Target (issue 19): at most 2.

memory: peak memory of a process that renders 10 s and one that renders 10 min, with a tiny model. Target: no growth
with the duration (at most 10 %).
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

THREADS, ROUNDS = 2, 2
SPEED_S, MEMORY_S = 10, (10, 600)


def make_video(path: Path, seconds: float, size: str, fps: int) -> Path:
    """A moving test picture with a tone."""
    import imageio_ffmpeg

    inputs = ["-f", "lavfi", "-i", f"testsrc2=s={size}:r={fps}", "-f", "lavfi", "-i", "sine=r=48000"]
    codecs = ["-t", str(seconds), "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-c:a", "aac"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *inputs, *codecs, str(path)]
    subprocess.run(command, check=True)
    return path


def speed(seconds: float) -> None:
    """Ratio of the processor times of rendering and of the encoders alone, and of the wall times."""
    import torch

    from configs.schema import ModelConfig
    from eval.inference.stream_maps import BATCH_SIZE, encode_block, encode_frames
    from eval.inference.video_reader import VideoReader
    from eval.render.render import render_video
    from model.build import build_random_init
    from model.inputs import InputSpec

    torch.set_num_threads(THREADS)
    config = ModelConfig(image_encoder="vit_small_patch8_224.dino", audio_encoder="hubert_large", num_heads=2)
    model = build_random_init(config, InputSpec(224, 10.0, 16000), seed=0).eval()
    with tempfile.TemporaryDirectory() as folder:
        video = make_video(Path(folder) / "in.mp4", seconds, "640x360", 25)
        with VideoReader(video) as reader:
            frames = [frame for _, frame in reader.frames()]
            blocks = list(reader.audio_blocks(16000, model.inputs.samples))

        def encoders() -> None:
            with torch.inference_mode():
                for start in range(0, len(frames), BATCH_SIZE):
                    encode_frames(model, frames[start : start + BATCH_SIZE])
                for block in blocks:
                    encode_block(model, block)

        parts = {"encoders alone": encoders, "render_video": lambda: render_video(model, video, Path(folder) / "o.mp4")}
        cpu_s, wall_s = dict.fromkeys(parts, 0.0), dict.fromkeys(parts, 0.0)
        for _ in range(ROUNDS):
            for name, part in parts.items():
                cpu, wall = time.process_time(), time.perf_counter()
                part()
                cpu_s[name] += time.process_time() - cpu
                wall_s[name] += time.perf_counter() - wall
    for name in parts:
        print(f"{name}: {cpu_s[name] / ROUNDS:.1f} s of processor time, {wall_s[name] / ROUNDS:.1f} s")
    ratios = [times["render_video"] / times["encoders alone"] for times in (cpu_s, wall_s)]
    print(
        f"{len(frames)} frames: render / encoders = {ratios[0]:.2f} (processor time), {ratios[1]:.2f} (wall); target 2"
    )


def memory(long_s: float) -> None:
    """Peak memory of two durations, each in a process of its own."""
    peaks_mb = {}
    with tempfile.TemporaryDirectory() as folder:
        for seconds in (MEMORY_S[0], long_s):
            video = make_video(Path(folder) / "in.mp4", seconds, "320x180", 10)
            command = [sys.executable, __file__, "child", str(video), str(Path(folder) / "out.mp4")]
            started_s = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks_mb[seconds] = float(done.stdout.split()[-1])
            print(
                f"{seconds:g} s: peak {peaks_mb[seconds]:.0f} MB, {time.perf_counter() - started_s:.0f} s", flush=True
            )
    print(f"growth {peaks_mb[long_s] / peaks_mb[MEMORY_S[0]] - 1:.1%}; target at most 10 %")


def child(video: str, out: str) -> None:
    """Render with a tiny model and print the peak memory of this process in MB."""
    import torch

    from configs.schema import ModelConfig
    from eval.render.render import render_video
    from model.build import build_random_init
    from model.inputs import InputSpec

    torch.set_num_threads(THREADS)
    model = build_random_init(ModelConfig(num_heads=2), InputSpec(96, 2.4, 16000), seed=0).eval()
    render_video(model, video, out)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or ["all"]
    if what == "child":
        child(*rest)
    if what in ("speed", "all"):
        speed(float(rest[0]) if rest else SPEED_S)
    if what in ("memory", "all"):
        memory(float(rest[0]) if rest else MEMORY_S[1])
