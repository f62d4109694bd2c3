"""What all localisation sets come down to: a picture, a sound, and the region the sound comes from. One reader for each published layout gives these.

Pictures are squeezed to a square without cropping, as everywhere in this field, so that regions in shares of the sides fit at any size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from configs.errors import UsageError
from eval.benchmarks.pictures import opened_picture
from eval.metrics.localization import SIDE_PX

# Pixels of 224 x 224: left, top, right, bottom.
Box = tuple[int, int, int, int]


class LocalizationExample(NamedTuple):
    """One item.

    region: reads the annotation, float [224, 224], 0 to 1: the share of annotators who marked a pixel; all 0 where no source is in view.
    label: what sounds, in words; empty: not known.
    group: items with the same group belong together: prompts of one picture, frames of one video.
    audio_window_s: length of the stretch of the sound that the model hears, around its middle or around `second`; what lacks is padding.
    second: only this second of the sound counts for the map; None: all that is heard.
    in_view: False where the set says that the source of the sound is not in the picture.
    """

    id: str
    picture: Path
    sound: Path
    region: Callable[[], Tensor]
    label: str
    group: str
    audio_window_s: float
    second: int | None = None
    in_view: bool = True


@dataclass
class LocalizationSet:
    """Items in the order of the published table, and how many of its rows are left out, by reason."""

    items: list[LocalizationExample] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    _ids: set[str] = field(default_factory=set)

    def add(self, item: LocalizationExample, annotation: Path | None = None) -> None:
        """Take an item that is new and whose files are there, `annotation` too; count the others."""
        files = {"no_picture": item.picture, "no_sound": item.sound, "no_annotation": annotation}
        why = next(
            (why for why, path in files.items() if path and not path.is_file()),
            "duplicate" if item.id in self._ids else None,
        )
        if why:
            self.left_out[why] += 1
        else:
            self._ids.add(item.id)
            self.items.append(item)

    def require_nonempty(self, key: str, root: Path) -> LocalizationSet:
        """The set itself.

        Raises:
            UsageError: not one usable item; says how many rows are missing what.
        """
        if not self.items:
            reasons = ", ".join(f"{n} {why}" for why, n in self.left_out.items()) or "its table is empty"
            raise UsageError(f"{key}={root}: not one usable item ({reasons})")
        return self


def boxes_region(boxes: Sequence[Box], annotators_needed: int = 1) -> Float[Tensor, "H_px W_px"]:
    """How many boxes cover each pixel, divided by `annotators_needed` and cut at 1; a box that spans no pixel covers none."""
    region = torch.zeros(SIDE_PX, SIDE_PX)
    for box in boxes:
        left, top, right, bottom = (min(max(corner, 0), SIDE_PX) for corner in box)
        region[top:bottom, left:right] += 1
    return (region / annotators_needed).clamp(max=1)


def mask_region(path: Path, picture: Path, min: int) -> Float[Tensor, "H_px W_px"]:
    """1 where a colour of the mask reaches `min`, brought to 224 x 224 by the nearest pixel.

    Raises:
        UsageError: not a picture, or neither 224 x 224 nor of the proportions of its picture.
    """
    from PIL import Image

    with opened_picture(picture) as opened:
        width_px, height_px = opened.size
    with opened_picture(path) as opened:
        mask = np.asarray(opened.convert("RGB"))
    rows, columns = mask.shape[:2]
    # A pixel of slack: sides are rounded when a picture is reduced.
    if (rows, columns) != (SIDE_PX, SIDE_PX) and abs(columns * height_px - rows * width_px) > max(
        columns, rows, width_px, height_px
    ):
        raise UsageError(
            f"{path} is {columns} x {rows} px, its picture {picture} is {width_px} x {height_px}: they do not fit each other"
        )
    inside = Image.fromarray((mask.max(axis=-1) >= min).astype(np.uint8))
    return torch.from_numpy(np.array(inside.resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST))).float()


def read_picture(path: Path, size_px: int) -> UInt8[Tensor, "3 H_px W_px"]:
    """A picture, both sides resized to `size_px` (bicubic). Raises UsageError: not a whole picture."""
    from PIL import Image

    with opened_picture(path) as opened:
        resized = opened.convert("RGB").resize((size_px, size_px), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
