"""Lay over a video where its sound comes from: `python -m eval.render checkpoint=runs/demo video=in.mp4 out=out.mp4`

Each picture is compared with the sound of its moment; the map is the best head's similarity, scaled over the whole video. The sound is kept.
Small pictures are enlarged by a whole factor. Limits: all pictures are held in memory, so only the first 120 s of a video are rendered.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.cli import run
from configs.errors import UsageError
from configs.schema import DecodeConfig, RenderConfig

if TYPE_CHECKING:
    import numpy as np

    from model.denseav import DenseAV
    from pipelines.build.decode.clip import DecodedClip

MAX_DURATION_S = 120.0
MAX_FPS = 25
WIDTH_PX = 384
FRAMES_AT_ONCE = 32


def main(config: RenderConfig) -> None:
    """Load the model, write the video."""
    from model.hub import from_pretrained

    for key in ("checkpoint", "video", "out"):
        if not getattr(config, key):
            raise UsageError(f"{key}= is missing")
    out, video = Path(config.out), Path(config.video)
    if out.is_dir() or out.suffix.lower() != ".mp4":
        raise UsageError(
            f"out={config.out}{' is a folder' * out.is_dir()}: wanted the name of the mp4 to write, such as heatmap.mp4"
        )
    if out.resolve() == video.resolve():
        raise UsageError(f"out={config.out} is the video itself, which would be lost; give another name")
    print(render_heatmap_video(from_pretrained(config.checkpoint), video, out))


def render_heatmap_video(model: DenseAV, video: Path, out: Path) -> Path:
    """Write an mp4 (H.264 and AAC, for browsers) of a video with its heatmaps, and return its path.

    Raises:
        UsageError: no such file, or one without pictures or sound.
    """
    import imageio_ffmpeg
    import numpy as np
    from tqdm import tqdm

    from eval.report.figures import overlay, upscale_integer

    clip, fps = _decode(video, model)
    times_s = (np.arange(max(1, round((clip.end_s - clip.start_s) * fps))) + 0.5) / fps
    shown = np.maximum(np.searchsorted(clip.frame_times_s, times_s, side="right") - 1, 0)
    maps = heatmaps_over_time(model, clip.frames, shown, times_s, clip.waveform)
    low, high = maps.min(), maps.max()

    out.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=out.parent).close()  # ffmpeg would say in many lines that it cannot write there
    temporary = out.with_name(f".{out.stem}.{os.getpid()}.tmp.mp4")
    first = upscale_integer(clip.frames[0], WIDTH_PX)
    height_px, width_px = (side - side % 2 for side in first.shape[:2])
    writer = imageio_ffmpeg.write_frames(
        temporary, (width_px, height_px), fps=fps, codec="libx264", pix_fmt_out="yuv420p", macro_block_size=2, quality=None,
        audio_path=str(video), audio_codec="aac", output_params=["-crf", "20", "-movflags", "+faststart", "-t", f"{times_s[-1] + 0.5 / fps:.3f}"],
    )  # fmt: skip
    try:
        writer.send(None)
        for number, heat in zip(
            tqdm(shown, desc="video", unit="frame", dynamic_ncols=True, leave=False),
            (maps - low) / max(high - low, 1e-12),
            strict=True,
        ):
            picture = upscale_integer(clip.frames[number], WIDTH_PX)
            drawn = overlay(picture, _resized(heat, picture.shape[:2]))
            writer.send(np.ascontiguousarray(drawn[:height_px, :width_px]))
        writer.close()
        temporary.replace(out)
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)
    return out


def heatmaps_over_time(
    model: DenseAV, frames: list[np.ndarray], shown: np.ndarray, times_s: np.ndarray, waveform: np.ndarray
) -> np.ndarray:
    """The best head's similarity of every cell with the sound of its moment.

    Args:
        frames: uint8 [H_px, W_px, 3] each.
        shown: number of the frame on screen at each time.
        times_s: when.
        waveform: float32 [S] of the whole video.

    Returns:
        float32 [times, H, W]; between two audio steps, linear.
    """
    import numpy as np
    import torch

    device = next(model.parameters()).device
    with torch.inference_mode():
        cells = torch.cat(
            [model.encode_image(batch.to(device)).dense.float() for batch in _whole_pictures(model, frames)]
        )
        steps, step_s = _audio_steps(model, waveform, device)
        place = np.clip(times_s / step_s - 0.5, 0, len(steps) - 1)
        before = torch.as_tensor(place.astype(int))
        after = (before + 1).clamp(max=len(steps) - 1)
        share = torch.as_tensor(place - place.astype(int), dtype=torch.float32)[:, None, None].to(device)
        sound = steps[before] * (1 - share) + steps[after] * share
        maps = [
            torch.einsum("nkc,nkchw->nkhw", some, cells[torch.as_tensor(pictures)]).max(dim=1).values
            for some, pictures in zip(
                sound.split(FRAMES_AT_ONCE),
                np.split(shown, range(FRAMES_AT_ONCE, len(shown), FRAMES_AT_ONCE)),
                strict=True,
            )
        ]
    maps = torch.cat(maps).cpu()
    return (maps.clamp(min=0) if model.similarity_config.nonneg else maps).numpy()


def _decode(video: Path, model: DenseAV) -> tuple[DecodedClip, float]:
    import av

    from pipelines.build.decode.clip import decode_clip
    from pipelines.manifest import Clip, RejectedClip

    if not video.is_file():
        raise UsageError(f"video={video}: no such file")
    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise UsageError(f"video={video}: no picture stream in it")
            stream = container.streams.video[0]
            fps = min(float(stream.average_rate or MAX_FPS), MAX_FPS)
            duration_s = (container.duration or 0) / 1e6
    except av.error.FFmpegError as error:
        raise UsageError(f"video={video}: not a video that can be opened ({error})") from None
    if duration_s > MAX_DURATION_S:
        print(f"{video}: the first {MAX_DURATION_S:.0f} s of {duration_s:.0f} s are rendered", file=sys.stderr)
    settings = DecodeConfig(
        frames_per_clip=max(1, round(min(duration_s, MAX_DURATION_S) * fps)),
        short_side_px=480,
        sample_rate_hz=model.inputs.sample_rate_hz,
        min_duration_s=0.0,
        max_duration_s=MAX_DURATION_S,
        keep_static=True,
    )
    try:
        return decode_clip(Clip(id="video", media=video.name), video.parent, settings), fps
    except RejectedClip as error:
        raise UsageError(f"video={video}: {error.reason.replace('_', ' ')} ({error.detail})") from None


def _whole_pictures(model: DenseAV, frames: list[np.ndarray]) -> Iterator[Any]:
    """Normalised batches of the whole pictures: the short side as the model has learnt it, both sides whole patches."""
    import torch
    from torchvision.transforms.v2 import functional

    height_px, width_px = frames[0].shape[:2]
    patch_px, scale = model.image_encoder.stride, model.inputs.image_size_px / min(height_px, width_px)
    size = [max(1, round(side * scale / patch_px)) * patch_px for side in (height_px, width_px)]
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        pictures = torch.stack(
            [torch.from_numpy(frame.copy()).permute(2, 0, 1) for frame in frames[start : start + FRAMES_AT_ONCE]]
        )
        yield functional.resize(pictures, size, antialias=True)


def _audio_steps(model: DenseAV, waveform: np.ndarray, device: Any) -> tuple[Any, float]:
    """Features of all audio steps [steps K C], one stretch of the model's length after the other, and how long a step is, in seconds."""
    import torch

    from pipelines.stream.augment import pad_or_crop

    samples = round(model.inputs.clip_duration_s * model.inputs.sample_rate_hz)
    parts = []
    for start in range(0, max(1, len(waveform)), samples):
        sound, mask = (
            torch.from_numpy(x)[None].to(device) for x in pad_or_crop(waveform[start : start + samples], samples)
        )
        parts.append(model.encode_audio(sound, mask).dense[0].float().permute(2, 0, 1))
    return torch.cat(parts), model.inputs.clip_duration_s / len(parts[0])


def _resized(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import torch
    from torch.nn import functional

    return functional.interpolate(torch.from_numpy(heat)[None, None], size=size, mode="bilinear")[0, 0].numpy()


if __name__ == "__main__":
    sys.exit(run(RenderConfig, __doc__, main))
