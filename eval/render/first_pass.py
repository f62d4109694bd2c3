"""The first pass over a video: its small maps or the colors of its features, and how they will be drawn."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from tqdm import tqdm

from eval.inference.map_upsampler import MapUpsampler
from eval.inference.stream_maps import (
    BATCH_SIZE,
    AudioTimeline,
    ImageCache,
    Moments,
    Video,
    encode_block,
    encode_frames,
    held_frames,
    moment_maps,
    stream_moments,
)
from eval.render.audio_strip import AudioStrip, envelope
from eval.render.decorations import Caption, Scale
from eval.render.drawing import Drawing, View
from eval.render.pca import JointPca, fit_pca
from eval.render.recording import Recording
from eval.render.still import StillVideo
from model.denseav import DenseAV

_COLORS = [Scale(0.0, 1.0)] * 3
Item = TypeVar("Item")


class Request(NamedTuple):
    """What to render: the arguments of eval.render.render.render_video."""

    view: View
    head: int | None
    upsample: MapUpsampler
    captions: tuple[Caption, ...]
    max_fps: int | float
    on_moments: Callable[[Moments], None] | None


def progress_bar(description: str, duration_s: float) -> tqdm:
    """A progress bar in seconds of a video."""
    bar_format = "{desc} {percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} s [{elapsed}<{remaining}]"
    return tqdm(total=duration_s, desc=description, bar_format=bar_format, dynamic_ncols=True, leave=False)


def record(model: DenseAV, video: Video, request: Request, recording: Recording) -> Drawing:
    """Fill a recording with the maps of a video, one for each of its `held_frames`, and return how to draw them.

    The recording stays empty for view=audio.
    """
    peaks = envelope(video)
    with progress_bar("maps", video.duration_s) as bar:
        if request.view not in ("features", "audio"):
            for moments in stream_moments(model, video, request.max_fps):
                if request.on_moments:
                    request.on_moments(moments)
                for maps in _channels(moment_maps(model, moments, _is_per_head(request)), request):
                    recording.append(maps)
                bar.update(moments.times_s[-1] - bar.n)
            scales = recording.scales_of_heads() if request.view == "heads" else [recording.scale()]
            return _drawing(request, scales, None, peaks)
        pca = fit_pca(model, video)
        if request.view == "features":
            images = ImageCache(model)
            for batch in _batches(held_frames(video, request.max_fps)):
                for colors in image_colors(pca, images, [frame for _, frame in batch]):
                    recording.append(colors)
                bar.update(batch[-1][0] - bar.n)
    return _drawing(request, _COLORS, audio_strip(model, video, pca, peaks), peaks)


@torch.inference_mode()
def record_whole(
    model: DenseAV, video: StillVideo, request: Request
) -> tuple[Drawing, Float[np.ndarray, "C H W"] | None]:
    """The maps of an image with a whole sound, or None for view=audio, and how to draw them."""
    peaks = envelope(video)
    _, frame = next(video.frames())
    if request.view not in ("features", "audio"):
        maps = _channels(whole_sound_maps(model, frame, video, _is_per_head(request))[None], request)[0]
        lows = maps.mean(axis=(1, 2)) if request.view == "heads" else maps.min(axis=(1, 2))
        scales = [Scale(low, float(maps.max())) for low in lows.tolist()]
        return _drawing(request, scales, None, peaks), maps
    pca = fit_pca(model, video)
    colors = image_colors(pca, ImageCache(model), [frame])[0] if request.view == "features" else None
    return _drawing(request, _COLORS, audio_strip(model, video, pca, peaks), peaks), colors


@torch.inference_mode()
def whole_sound_maps(
    model: DenseAV, frame: UInt8[np.ndarray, "H_px W_px 3"], video: Video, per_head: bool
) -> Float[np.ndarray, "*K H W"]:
    """DenseAV.heatmap of an image with the whole audio of a video: the mean over all valid steps of its windows."""
    image = encode_frames(model, [frame])
    total, steps = torch.zeros(()), 0
    for block in video.audio_blocks(model.inputs.sample_rate_hz, model.inputs.samples):
        audio = encode_block(model, block)
        count = int(audio.mask.sum())
        total = total + model.heatmap(image, audio, per_head=per_head)[0].double().cpu() * count
        steps += count
    return (total / max(steps, 1)).float().numpy()


@torch.inference_mode()
def image_colors(
    pca: JointPca, images: ImageCache, frames: list[UInt8[np.ndarray, "H_px W_px 3"]]
) -> Float[np.ndarray, "N 3 H W"]:
    """Colors of the image features of frames."""
    assert pca.image is not None
    return pca.colors(images.encode(frames).dense.flatten(1, 2), pca.image)


@torch.inference_mode()
def audio_strip(model: DenseAV, video: Video, pca: JointPca, peaks: Float[np.ndarray, "N"]) -> AudioStrip | None:
    """The strip of a video, with a color for every moment of its audio; None without audio."""
    if pca.audio is None:
        return None
    timeline = AudioTimeline(model, video)
    step_s = model.inputs.clip_duration_s / timeline.steps
    times_s = np.arange(0.5 * step_s, max(video.duration_s, step_s), step_s)
    colors = []
    for start in range(0, len(times_s), BATCH_SIZE):
        audio, weight = timeline.at(times_s[start : start + BATCH_SIZE])
        dense = (audio.dense * weight[:, None, None, :]).sum(dim=-1)
        colors.append(pca.colors(dense.flatten(1, 2), pca.audio).astype(np.float16))
    return AudioStrip(peaks, times_s, np.concatenate(colors), video.duration_s)


def _is_per_head(request: Request) -> bool:
    return request.view in ("heads", "head")


def _channels(maps: Float[np.ndarray, "N *K H W"], request: Request) -> Float[np.ndarray, "N C H W"]:
    """The channels that a view shows: one of all heads together, one of one head, or one of each head."""
    if request.view == "heads":
        return maps
    return maps[:, [request.head or 0]] if request.view == "head" else maps[:, None]


def _drawing(request: Request, scales: list[Scale], strip: AudioStrip | None, peaks: np.ndarray) -> Drawing:
    peak = float(peaks.max()) if len(peaks) else 0.0
    return Drawing(request.view, request.upsample, scales, strip, request.captions, peak)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH_SIZE:
            yield batch
            batch = []
    if batch:
        yield batch
