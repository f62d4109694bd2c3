"""Localization: the result of localizing a sound in an image or in the frames of a video."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast, get_args

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from configs.atomic_write import atomic_open
from configs.errors import UsageError
from eval.render.drawing import View
from eval.report.figures import overlay
from model.upsamplers.interpolation import InterpolationWeights

IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
TOLERANCE_S = 1e-6  # a frame at 0.30000000000000004 s is on screen at 0.3 s


@dataclass(frozen=True, eq=False, repr=False)
class Moments:
    """Maps of single moments of the sound, which `at` and `between` read.

    Attributes:
        starts_s, middles_s: float64 [N], increasing.
        duration_s: end of the last moment.
        maps: of each moment, maximum over heads, on the grid of the model.
        frames: int64 [N]: index of the frame that is on screen.
    """

    starts_s: np.ndarray
    middles_s: np.ndarray
    duration_s: float
    maps: Float[Tensor, "N H W"]
    frames: np.ndarray


def bilinear_maps(
    maps: Float[Tensor, "N M H W"],
    frames: UInt8[Tensor, "N 3 H_img W_img"],  # noqa: ARG001
    size: tuple[int, int],
) -> Float[Tensor, "N M H_px W_px"]:
    """Upsample maps bilinearly, without looking at their frames."""
    return InterpolationWeights(size).apply(maps)


@dataclass(frozen=True, eq=False, repr=False)
class Localization:
    """Where in an image, or in each frame of a video, a sound comes from.

    An image has one frame (F = 1), with the map of the whole sound; a frame of a video has the map of the sound at its
    time. Values of maps are similarities: any range, larger is more similar. All tensors are float32 on the CPU.

    Attributes:
        frames: F images of H_px x W_px pixels.
        frame_times_s: float64 [F], when each frame is on screen; 0 for an image.
        audio_times_s: float64 [T], middle of each audio step.
        score: how well the sound fits the image, or the frames on average: per-head scores summed over heads, as
            `Localizer.score` and the retrieval benchmarks compute them; any range.
        grid_maps: the maps on the grid of the model, maximum over heads.
        grid_maps_by_head: the map of each head.
        moments: the maps that `at` and `between` read.
        upsample: brings maps [N M H W] of N frames to a size in pixels (eval.inference.map_upsampler.MapUpsampler).
        render: writes an .mp4 or .png of a view (path, view, head); None: only the heatmap of an image can be saved.
    """

    frames: UInt8[Tensor, "F 3 H_px W_px"]
    frame_times_s: np.ndarray
    audio_times_s: np.ndarray
    score: float
    grid_maps: Float[Tensor, "F H W"]
    grid_maps_by_head: Float[Tensor, "F K H W"]
    moments: Moments
    upsample: Callable[[Tensor, Tensor, tuple[int, int]], Tensor] = bilinear_maps
    render: Callable[[Path, View, int | None], object] | None = None

    def __repr__(self) -> str:
        height_px, width_px = self.size_px
        return (
            f"Localization({len(self.frames)} frames of {width_px} x {height_px} px, {len(self.audio_times_s)} audio "
            f"steps, {self.grid_maps_by_head.shape[1]} heads, score {self.score:.3f})"
        )

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of frames and maps."""
        return self.frames.shape[2], self.frames.shape[3]

    @cached_property
    def heatmaps(self) -> Float[Tensor, "F H_px W_px"]:
        """The map of each frame in pixels, computed when it is first read."""
        return self._upsample(self.grid_maps[:, None], range(len(self.frames)))[:, 0]

    @cached_property
    def by_head(self) -> Float[Tensor, "F K H_px W_px"]:
        """The map of each frame and head in pixels, computed when it is first read."""
        return self._upsample(self.grid_maps_by_head, range(len(self.frames)))

    def at(self, time_s: float | int) -> Float[Tensor, "H_px W_px"]:
        """The map of the sound at a time: of its audio step or, for a video, of the frame on screen.

        Raises:
            ValueError: a time before 0 or after the end.
        """
        if not 0 <= time_s <= self.moments.duration_s:
            raise UsageError(f"at({time_s}): allowed is 0 to {self.moments.duration_s:.2f} s")
        return self._mean_map(
            [max(0, int(np.searchsorted(self.moments.starts_s, time_s + TOLERANCE_S, side="right")) - 1)]
        )

    def between(self, start_s: float | int, end_s: float | int) -> Float[Tensor, "H_px W_px"]:
        """The mean of the maps of all moments whose middle lies from `start_s` up to, not including, `end_s`.

        Moments are audio steps or, for a video, frames.

        Raises:
            ValueError: no moment lies between them.
        """
        times_s = self.moments.middles_s
        chosen = np.flatnonzero((times_s >= start_s - TOLERANCE_S) & (times_s < end_s - TOLERANCE_S))
        if not len(chosen):
            raise UsageError(
                f"between({start_s}, {end_s}): no moment lies there; moments lie from {times_s[0]:.2f} to "
                f"{times_s[-1]:.2f} s"
            )
        return self._mean_map(chosen.tolist())

    def mask(self, threshold: float | int = 0.5) -> Bool[Tensor, "F H_px W_px"]:
        """True where a map is above a threshold.

        Args:
            threshold: 0 to 1, from the smallest to the largest value of all maps of this result.

        Raises:
            ValueError: a threshold outside 0 to 1.
        """
        if not 0 <= threshold <= 1:
            raise UsageError(f"mask({threshold}): allowed is 0 to 1")
        return _scale(self.heatmaps, self.heatmaps) > threshold

    def overlay(self, index: int = 0, head: int | None = None) -> Image.Image:
        """The frame `index` under its map, as an RGB image of the frame's size.

        Args:
            head: the map of one head; None: their maximum.

        Raises:
            ValueError: no such head.
        """
        num_heads = self.grid_maps_by_head.shape[1]
        if head is not None and not 0 <= head < num_heads:
            raise UsageError(f"head={head}: this model has {num_heads}, counted from 0")
        maps = self.grid_maps[:, None] if head is None else self.grid_maps_by_head[:, head : head + 1]
        index = range(len(self.frames))[index]
        heat = _scale(self._upsample(maps[index : index + 1], [index])[0, 0], maps)
        return Image.fromarray(overlay(self.frames[index].permute(1, 2, 0).numpy(), heat.numpy()))

    def save(self, path: str | Path, view: str = "heatmap", head: int | None = None) -> Path:
        """Write a picture (.png, .jpg; of an image) or a video with the sound (.mp4), and return its path.

        Args:
            path: its folder is created.
            view: heatmap, heads (each in its color), head (one of them), features (joint PCA), side_by_side or audio
                (the strip of the audio features); .jpg: heatmap alone.
            head: number of the head of view=head.

        Raises:
            ValueError: another kind of file or view, or no such head.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        allowed = [".mp4"] * (self.render is not None) + list(IMAGE_FORMATS) * (len(self.frames) == 1)
        if suffix not in allowed:
            raise UsageError(f"{path}: allowed is {', '.join(allowed) or 'overlay(i).save(...)'}")
        if view not in get_args(View):
            raise UsageError(f"view={view}: allowed is {', '.join(get_args(View))}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix in IMAGE_FORMATS and view == "heatmap":
            with atomic_open(path) as file:
                self.overlay().save(file, IMAGE_FORMATS[suffix])
        elif self.render is None or suffix in (".jpg", ".jpeg"):
            raise UsageError(f"view={view}: allowed for {path} is heatmap")
        else:
            self.render(path, cast(View, view), head)
        return path

    def _mean_map(self, moments: Sequence[int]) -> Float[Tensor, "H_px W_px"]:
        """The mean of the maps of moments, guided by the frame of their middle one."""
        maps = self.moments.maps[list(moments)].mean(dim=0)
        frame = int(self.moments.frames[moments[len(moments) // 2]])
        return self._upsample(maps[None, None], [frame])[0, 0]

    def _upsample(self, maps: Float[Tensor, "N M H W"], frames: Sequence[int]) -> Float[Tensor, "N M H_px W_px"]:
        return self.upsample(maps, self.frames[list(frames)], self.size_px)


def _scale(maps: Tensor, reference: Tensor) -> Tensor:
    """Scale so that the reference fills 0 to 1; a constant one gives 0."""
    low, high = reference.min(), reference.max()
    return ((maps - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
