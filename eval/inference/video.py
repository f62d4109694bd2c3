"""Localize the sound of a video in its frames: at once (a clip that fits into memory), or frame by frame."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from configs.errors import UsageError
from eval.inference.encode import in_float32
from eval.inference.localization import Localization, Moments
from eval.inference.map_upsampler import MapUpsampler
from eval.inference.stream_maps import Moments as EncodedMoments
from eval.inference.stream_maps import moment_maps, stream_moments
from eval.inference.video_reader import VideoReader
from eval.render.drawing import View
from model.denseav import DenseAV

RATE_TOLERANCE = 0.1  # of a frame, as VideoReader
MAX_BYTES = 4e9  # of the frames of one Localization


def localize_video(
    upsample: MapUpsampler,
    path: Path,
    max_fps: float | int,
    short_side_px: int,
    precision: Callable[[], AbstractContextManager[object]],
) -> Localization:
    """All frames of a video with the sound at their time; arguments and errors as Localizer.localize.

    Args:
        upsample: with the model, in evaluation mode.
        path: the video.
        max_fps: frames are left out where there are more per second.
        short_side_px: larger frames are scaled down.
        precision: context in which the encoders run.
    """
    with _open(path) as video:
        _check_memory(video, max_fps, short_side_px)
        parts = list(_localizations(upsample, video, max_fps, short_side_px, precision))
        duration_s = video.duration_s
    frames, maps, by_head = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("frames", "grid_maps", "grid_maps_by_head")
    )
    times_s = np.concatenate([part.frame_times_s for part in parts])
    moments = Moments(times_s, times_s, max(duration_s, times_s[-1]), maps, np.arange(len(times_s)))
    return Localization(
        frames,
        times_s,
        _step_times_s(upsample.model, duration_s),
        float(np.mean([part.score for part in parts])),
        maps,
        by_head,
        moments,
        upsample,
        partial(_render, upsample, path),
    )


def stream_localizations(
    upsample: MapUpsampler,
    path: Path,
    max_fps: float | int,
    short_side_px: int,
    precision: Callable[[], AbstractContextManager[object]],
) -> Iterator[Localization]:
    """The frames of a video of any length, one Localization each; arguments as localize_video."""
    with _open(path) as video:
        yield from _localizations(upsample, video, max_fps, short_side_px, precision)


def _localizations(
    upsample: MapUpsampler,
    video: VideoReader,
    max_fps: float | int,
    short_side_px: int,
    precision: Callable[[], AbstractContextManager[object]],
) -> Iterator[Localization]:
    slot, model = -1, upsample.model
    batches = stream_moments(model, video, float(max_fps))
    while True:
        with precision():  # not across a yield, which would leave it on in the caller
            batch = next(batches, None)
        if batch is None:
            return
        batch = batch._replace(image=in_float32(batch.image), audio=in_float32(batch.audio))
        maps, by_head = (torch.from_numpy(moment_maps(model, batch, per_head)) for per_head in (False, True))
        scores = _scores(model, batch)
        for index, (time_s, frame) in enumerate(zip(batch.times_s, batch.frames, strict=True)):
            if int(time_s * max_fps + RATE_TOLERANCE) <= slot:
                continue  # stream_moments repeats frames that stay on screen
            slot = int(time_s * max_fps + RATE_TOLERANCE)
            one = slice(index, index + 1)
            times_s = np.array([time_s])
            yield Localization(
                _scale_down(torch.from_numpy(frame).permute(2, 0, 1), short_side_px)[None],
                times_s,
                times_s,
                float(scores[index]),
                maps[one],
                by_head[one],
                Moments(times_s, times_s, float(time_s), maps[one], np.zeros(1, dtype=np.int64)),
                upsample,
            )


@torch.inference_mode()
def _scores(model: DenseAV, batch: EncodedMoments) -> Tensor:
    """The score of each frame with the two audio steps around its time."""
    scores = model.similarity_per_head(batch.image, batch.audio).sum(dim=-1)
    return scores.diagonal().float().cpu()


def _open(path: Path) -> VideoReader:
    """Raises UsageError: not a video, or one without frames or audio."""
    video = VideoReader(path)
    missing = [name for name, there in (("video", video.has_video), ("audio", video.has_audio)) if not there]
    if missing:
        video.close()
        raise UsageError(
            f"{path} has no {missing[0]}: allowed is a video with sound, or localize(image, sound) for an image"
        )
    return video


def _check_memory(video: VideoReader, max_fps: float | int, short_side_px: int) -> None:
    scale = min(1.0, short_side_px / min(video.width_px, video.height_px))
    frames = min(video.fps or max_fps, max_fps) * video.duration_s
    needed = frames * 3 * video.width_px * video.height_px * scale**2
    if needed > MAX_BYTES:
        raise UsageError(
            f"{video.path}: {frames:.0f} frames of {video.duration_s:.0f} s need {needed / 1e9:.1f} GB, allowed is "
            f"{MAX_BYTES / 1e9:.0f}; lower max_fps={max_fps:g} or short_side_px={short_side_px}, or use localize_stream"
        )


def _scale_down(frame: Tensor, short_side_px: int) -> Tensor:
    size = min(frame.shape[-2:])
    return frame if size <= short_side_px else functional.resize(frame, [short_side_px], antialias=True)


def _step_times_s(model: DenseAV, duration_s: float) -> np.ndarray:
    """Middles of the audio steps of a sound, in seconds."""
    inputs, device = model.inputs, next(model.parameters()).device
    with torch.inference_mode():
        samples = torch.zeros(1, inputs.samples, device=device)
        steps = model.encode_audio(samples, torch.ones_like(samples, dtype=torch.bool)).mask.shape[1]
    step_s = inputs.clip_duration_s / steps
    return (np.arange(max(1, round(duration_s / step_s))) + 0.5) * step_s


def _render(upsample: MapUpsampler, source: Path, out: Path, view: View, head: int | None) -> None:
    from eval.render.render import render_video

    render_video(upsample.model, source, out, view=view, head=head, upsampler=upsample.upsampler)
