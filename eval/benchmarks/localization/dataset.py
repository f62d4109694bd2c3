"""The common form of all localization data sets: an image, audio, and the region that the audio comes from.

Images are resized to a square without cropping, as usual for these data sets, so that regions in fractions of the sides
fit at any size. Regions refer to the upright image, after the orientation in its EXIF metadata.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from configs.errors import UsageError
from eval.benchmarks.io import finite_float, open_image
from eval.metrics.localization import SIDE_PX
from pipelines.rgb_image import upright_rgb

# Left, top, right, bottom in pixels of 224 x 224.
Box = tuple[int, int, int, int]


class LocalizationExample(NamedTuple):
    """One item of a localization data set.

    Attributes:
        id: unique in the data set.
        image, audio: files.
        region: reads the annotation, float [224, 224], 0 to 1: the fraction of annotators who marked a pixel; all 0 if
            no source is in view.
        label: the class of the source, in words; empty: unknown.
        group: items of a group belong together: prompts of one image, frames of one video.
        audio_window_s: length of the part of the audio that the model gets, around its middle or around `second`;
            padded if the audio is shorter.
        second: the map is that of this second of the audio; None: of the whole window.
        in_view: False if the source of the audio is not in the image.
    """

    id: str
    image: Path
    audio: Path
    region: Callable[[], Tensor]
    label: str
    group: str
    audio_window_s: float = 3.0
    second: int | None = None
    in_view: bool = True


@dataclass
class LocalizationSet:
    """Items in the order of the published table, and how many of its rows are left out, by reason."""

    items: list[LocalizationExample] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    _ids: set[str] = field(default_factory=set)

    def add(self, item: LocalizationExample, annotation: Path | None = None) -> None:
        """Add an item with a new id whose files exist (`annotation` too); count any other as left out."""
        files = {"no_image": item.image, "no_audio": item.audio, "no_annotation": annotation}
        reason = next((reason for reason, path in files.items() if path and not path.is_file()), None)
        if reason or item.id in self._ids:
            self.left_out[reason or "duplicate"] += 1
        else:
            self._ids.add(item.id)
            self.items.append(item)

    def require_nonempty(self, source: Path) -> "LocalizationSet":
        """Return the set itself.

        Args:
            source: folder or table, for the message.

        Raises:
            UsageError: no usable item; the message counts the reasons.
        """
        if not self.items:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.left_out.items()) or "its table is empty"
            raise UsageError(f"{source}: no usable item ({reasons})")
        return self


def parse_box(corners: Any, pixels_per_unit: int | float = 1) -> Box:
    """A box from its four corners. Raises ValueError, TypeError or OverflowError: not four numbers of 32 bits."""
    left, top, right, bottom = (int(np.int32(finite_float(corner) * pixels_per_unit)) for corner in corners)
    return left, top, right, bottom


def boxes_region(boxes: Sequence[Box], annotators_needed: int = 1) -> Float[Tensor, "H_px W_px"]:
    """The number of boxes that cover each pixel, divided by `annotators_needed`, at most 1."""
    region = torch.zeros(SIDE_PX, SIDE_PX)
    for box in boxes:
        left, top, right, bottom = (min(max(corner, 0), SIDE_PX) for corner in box)
        region[top:bottom, left:right] += 1
    return (region / annotators_needed).clamp(max=1)


def mask_region(path: Path, image: Path, min: int) -> Float[Tensor, "H_px W_px"]:
    """1 where the largest color channel of the mask is `min` or more, resized to 224 x 224 (nearest neighbor).

    Raises:
        UsageError: not an image, or neither 224 x 224 nor of the aspect ratio of its image.
    """
    with open_image(image) as opened:
        width_px, height_px = opened.size
    with open_image(path) as opened:
        mask = np.asarray(opened.convert("RGB"))
    rows, columns = mask.shape[:2]
    # One pixel of tolerance: the sides of a downscaled mask are rounded.
    tolerance = max(columns, rows, width_px, height_px)
    if (rows, columns) != (SIDE_PX, SIDE_PX) and abs(columns * height_px - rows * width_px) > tolerance:
        raise UsageError(
            f"{path} is {columns} x {rows} px, but its image {image} is {width_px} x {height_px}: allowed are this "
            f"aspect ratio or {SIDE_PX} x {SIDE_PX} (upright, as its EXIF metadata states)"
        )
    inside = Image.fromarray((mask.max(axis=-1) >= min).astype(np.uint8))
    return torch.from_numpy(np.array(inside.resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST))).float()


def read_square_image(path: Path, size_px: int) -> UInt8[Tensor, "3 H_px W_px"]:
    """An image with both sides resized to `size_px` (bicubic). Raises UsageError: not a complete image."""
    with open_image(path) as opened:
        resized = upright_rgb(opened).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
