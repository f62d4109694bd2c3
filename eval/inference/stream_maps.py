"""Heatmaps of a video over time, for any length, with flat memory.

Audio is encoded in consecutive windows of the model's input length, the last one padded with silence; between the
centers of two audio steps features are weighted linearly. Frames are encoded uncropped. A frame that stays on screen
for long is repeated, so that its heatmap follows the audio.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional

from model.denseav import DenseAV
from model.features import AudioFeatures, ImageFeatures, concat_features, map_tensors
from model.upsamplers import Upsampler
from pipelines.stream.augment import pad_or_crop

BATCH_SIZE = 8
MIN_FPS = 10.0  # moments per second of a frame that stays on screen
_NOTHING = np.zeros(0, np.float32)
MAX_ASPECT = 4.0  # of an image at the resolution of training; longer ones are encoded at a lower resolution


@runtime_checkable
class Video(Protocol):
    """What stream_maps reads: a VideoReader, or an image with audio in its place."""

    duration_s: float
    has_audio: bool

    def frames(self, max_fps: int | float | None = None) -> Iterator[tuple[float, UInt8[np.ndarray, "H_px W_px 3"]]]:
        """See VideoReader.frames; a repeated frame is the same object."""

    def audio_blocks(self, rate_hz: int, samples: int) -> Iterator[Float[np.ndarray, "S"]]:
        """See VideoReader.audio_blocks."""


class FrameMaps(NamedTuple):
    """A frame and its heatmaps, which have one cell for each patch, or one for each pixel after an upsampler.

    Attributes:
        time_s: seconds from the start of the file.
        frame: uint8 RGB [H_px, W_px, 3].
        by_head: heatmap of each head, float32 [K, H, W], any range.
        heatmap: of all heads together, float32 [H, W]. Between two audio steps it can exceed the maximum of `by_head`,
            because the maximum over heads precedes the mean over steps.
    """

    time_s: float
    frame: UInt8[np.ndarray, "H_px W_px 3"]
    by_head: Float[np.ndarray, "K H W"]
    heatmap: Float[np.ndarray, "H W"]


class Moments(NamedTuple):
    """Features of N moments of a video: the frame on screen and the two audio steps around each.

    Attributes:
        times_s: float64 [N], seconds from the start of the file.
        frames: N frames, uint8 RGB [H_px, W_px, 3].
        image: features of the N frames.
        audio: the two audio steps of each moment, all valid.
        step_weight: float32 [N, 2], weights of the two steps; their sum is 1.
    """

    times_s: Float[np.ndarray, "N"]
    frames: Sequence[UInt8[np.ndarray, "H_px W_px 3"]]
    image: ImageFeatures
    audio: AudioFeatures
    step_weight: Float[Tensor, "N 2"]


def stream_maps(
    model: DenseAV, video: Video, max_fps: int | float | None = 25, upsampler: Upsampler | None = None
) -> Iterator[FrameMaps]:
    """The heatmaps of each frame with the audio at its time.

    Args:
        model: in evaluation mode; its device is used.
        video: with frames and audio.
        max_fps: frames are left out where there are more per second; None: all are used.
        upsampler: brings the maps to the size of the frames; None: maps have the size of the grid.

    Raises:
        UsageError: the video cannot be decoded (VideoReader).
    """
    for moments in stream_moments(model, video, max_fps):
        by_head, heatmaps = (moment_maps(model, moments, per_head, upsampler) for per_head in (True, False))
        yield from map(FrameMaps, moments.times_s.tolist(), moments.frames, by_head, heatmaps)


@torch.inference_mode()
def moment_maps(
    model: DenseAV, moments: Moments, per_head: bool, upsampler: Upsampler | None = None
) -> Float[np.ndarray, "N *K H W"]:
    """DenseAV.heatmap of moments, float32, any range; of the size of the grid, or with an upsampler of the frames."""
    frames, size = None, None
    if upsampler is not None:
        frames = torch.from_numpy(np.stack(moments.frames)).permute(0, 3, 1, 2).to(moments.step_weight.device)
        size = (frames.shape[-2], frames.shape[-1])
    maps = model.heatmap(
        moments.image, moments.audio, size, per_head, moments.step_weight, upsampler=upsampler, frames=frames
    )
    return maps.float().cpu().numpy()


def stream_moments(model: DenseAV, video: Video, max_fps: int | float | None = 25) -> Iterator[Moments]:
    """Encode a video in batches of moments; arguments and errors as stream_maps. Without audio, it is silence."""
    images, audio = ImageCache(model), AudioTimeline(model, video)
    batch: list[tuple[float, np.ndarray]] = []
    for moment in held_frames(video, max_fps):
        batch.append(moment)
        if len(batch) == BATCH_SIZE:
            yield _encode(batch, images, audio)
            batch = []
    if batch:
        yield _encode(batch, images, audio)


def held_frames(video: Video, max_fps: int | float | None) -> Iterator[tuple[float, UInt8[np.ndarray, "H_px W_px 3"]]]:
    """The frames of a video from time 0 to its end, repeated (as the same object) at least MIN_FPS times per second.

    The first frame is shown from time 0.
    """
    shown_s, shown = 0.0, None
    for time_s, frame in video.frames(max_fps):
        if shown is None and time_s > 0:
            yield 0.0, frame
            shown = frame
        if shown is not None:
            yield from ((at_s, shown) for at_s in _repeats(shown_s, time_s))
        yield time_s, frame
        shown_s, shown = time_s, frame
    if shown is not None:
        yield from ((at_s, shown) for at_s in _repeats(shown_s, video.duration_s))


def _repeats(start_s: float, end_s: float) -> Iterator[float]:
    """Times after `start_s` at which a frame that is shown until `end_s` is repeated: none below 1.5 periods."""
    number = 1
    while start_s + (number + 0.5) / MIN_FPS < end_s:
        yield start_s + number / MIN_FPS
        number += 1


@torch.inference_mode()
def _encode(batch: list[tuple[float, np.ndarray]], images: "ImageCache", audio: "AudioTimeline") -> Moments:
    times_s, frames = np.array([time_s for time_s, _ in batch]), [frame for _, frame in batch]
    pair, step_weight = audio.at(times_s)
    return Moments(times_s, frames, images.encode(frames), pair, step_weight)


class ImageCache:
    """Encodes frames; one that follows itself is encoded once."""

    def __init__(self, model: DenseAV) -> None:
        self._model = model
        self._last: tuple[np.ndarray, ImageFeatures] | None = None

    def encode(self, frames: Sequence[UInt8[np.ndarray, "H_px W_px 3"]]) -> ImageFeatures:
        """Features of frames."""
        known = [self._last[0]] if self._last else []
        rows = []
        for frame in frames:
            if not known or known[-1] is not frame:
                known.append(frame)
            rows.append(len(known) - 1)
        fresh = known[1:] if self._last else known
        parts = [self._last[1]] if self._last else []
        if fresh:
            parts.append(encode_frames(self._model, fresh))
        features = concat_features(parts)
        self._last = frames[-1], map_tensors(features, lambda tensor: tensor[-1:].clone())
        index = torch.tensor(rows, device=features.dense.device)
        return map_tensors(features, partial(torch.index_select, dim=0, index=index))


def encode_frames(model: DenseAV, frames: Sequence[UInt8[np.ndarray, "H_px W_px 3"]]) -> ImageFeatures:
    """Features of uncropped frames of one size, resized to `input_size`."""
    size = input_size(model, *frames[0].shape[:2])
    device = next(model.parameters()).device
    return model.encode_image(resize_frames(frames, size).to(device))


def resize_frames(
    frames: Sequence[UInt8[np.ndarray, "H_px W_px 3"]], size_px: tuple[int, int]
) -> UInt8[Tensor, "N 3 H_in W_in"]:
    """Frames resized to a height and width, bilinear with antialiasing."""
    planes = [torch.from_numpy(frame).permute(2, 0, 1) for frame in frames]
    return torch.stack([functional.resize(plane, list(size_px), antialias=True) for plane in planes])


def input_size(model: DenseAV, height_px: int, width_px: int) -> tuple[int, int]:
    """Size at which a model encodes an uncropped image: `whole_patches` with the short side as in training."""
    return whole_patches(model.image_encoder.stride, model.inputs.image_size_px, height_px, width_px)


def whole_patches(patch_px: int, side_px: int, height_px: int, width_px: int) -> tuple[int, int]:
    """Height and width of an uncropped image with a short side of `side_px`, in whole patches.

    Images longer than MAX_ASPECT times their short side are smaller, so that they have as many patches as one of
    MAX_ASPECT.
    """
    aspect = max(height_px, width_px) / min(height_px, width_px)
    scale = side_px / min(height_px, width_px) * min(1.0, MAX_ASPECT / aspect) ** 0.5
    most = round(MAX_ASPECT * (side_px / patch_px) ** 2)
    rows, columns = (min(most, max(1, round(side * scale / patch_px))) for side in (height_px, width_px))
    return rows * patch_px, columns * patch_px


class AudioTimeline:
    """Audio features of a video at increasing times; only two windows are kept.

    Args:
        model: encodes the audio.
        video: its audio is read as far as it is needed.

    Attributes:
        steps: T of a window.
    """

    @torch.inference_mode()
    def __init__(self, model: DenseAV, video: Video) -> None:
        self._model, self._device = model, next(model.parameters()).device
        self._blocks = video.audio_blocks(model.inputs.sample_rate_hz, model.inputs.samples)
        self._blocks_read: dict[int, np.ndarray] = {}
        self._windows: dict[int, AudioFeatures] = {}  # -1: silence after the end
        self._count = 0  # windows read
        self.steps = self._window(0).mask.shape[1]

    def at(self, times_s: Float[np.ndarray, "N"]) -> tuple[AudioFeatures, Float[Tensor, "N 2"]]:
        """The two audio steps around each time, and their weights; silence after the end of the audio."""
        positions = np.maximum(times_s / self._model.inputs.clip_duration_s * self.steps - 0.5, 0)
        pairs = [_join(self._step(int(at)), self._step(int(at) + 1)) for at in positions]
        weights = np.stack([1 - positions % 1, positions % 1], axis=1)
        return concat_features(pairs), torch.from_numpy(weights).float().to(self._device)

    def _step(self, number: int) -> AudioFeatures:
        """One step of all windows; the one after the last window is its last step again, which saves a window."""
        window, step = divmod(number, self.steps)
        if window and step == 0 and not self._read(window):
            window, step = window - 1, self.steps - 1
        features = self._window(window)
        return features._replace(dense=features.dense[..., step : step + 1], mask=features.mask[:, step : step + 1])

    def _window(self, number: int) -> AudioFeatures:
        block = self._blocks_read[number] if self._read(number) else _NOTHING
        key = number if number < self._count else -1
        if key not in self._windows:
            self._windows = {old: self._windows[old] for old in self._windows if old in (-1, number - 1)}
            self._windows[key] = encode_block(self._model, block)
        return self._windows[key]

    def _read(self, number: int) -> bool:
        """Read windows up to a number; False if the audio ends before it."""
        while self._count <= number:
            block = next(self._blocks, None)
            if block is None:
                return False
            self._blocks_read[self._count] = block
            self._blocks_read.pop(self._count - 2, None)
            self._count += 1
        return True


def encode_block(model: DenseAV, block: Float[np.ndarray, "S"]) -> AudioFeatures:
    """Features of one waveform of at most the model's input length, padded with silence: one row."""
    device = next(model.parameters()).device
    padded, mask = pad_or_crop(block, model.inputs.samples)
    return model.encode_audio(*(torch.from_numpy(array)[None].to(device) for array in (padded, mask)))


def _join(first: AudioFeatures, second: AudioFeatures) -> AudioFeatures:
    """Two steps, both valid, with the class token of the first."""
    dense = torch.cat([first.dense, second.dense], dim=-1)
    return AudioFeatures(dense, torch.ones(1, 2, dtype=torch.bool, device=dense.device), first.cls)
