"""Overlap of a heatmap with an exact mask: intersection over union and F-score of each picture, also at 255 thresholds at once.

Source: Zhou et al., Audio-Visual Segmentation, ECCV 2022 (AVSBench).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BETA_SQUARED = 0.3
LEVELS = 255
# The threshold of 0.5 among them.
HALF = LEVELS // 2


class Overlap(NamedTuple):
    """0 to 1. `iou` of a picture without an annotated pixel is the share of its pixels left dark; its `f_score` is NaN: it is not counted."""

    iou: Float[Tensor, "*items"]
    f_score: Float[Tensor, "*items"]


def overlap(kept: Bool[Tensor, "N H_px W_px"], truth: Bool[Tensor, "N H_px W_px"]) -> Overlap:
    """Of each picture, given the pixels a map claims."""
    annotated = truth.flatten(1).sum(dim=1).double()
    return _overlap(
        kept.flatten(1).sum(dim=1).double(), (kept & truth).flatten(1).sum(dim=1).double(), annotated, truth[0].numel()
    )


def overlap_curves(maps: Float[Tensor, "N H_px W_px"], truth: Bool[Tensor, "N H_px W_px"]) -> Overlap:
    """Of each picture at each threshold 0, 1/254, ..., 1; pixels at or above it count.

    Args:
        maps: 0 to 1.

    Returns:
        Both [N, 255].
    """
    thresholds = torch.linspace(0, 1, LEVELS, device=maps.device, dtype=maps.dtype)
    # The place of a pixel says how many thresholds it reaches, so counts of places, added up from the end, are the pixels kept at each.
    place = (
        torch.bucketize(maps.flatten(1), thresholds, right=True)
        + (LEVELS + 1) * torch.arange(len(maps), device=maps.device)[:, None]
    )
    every, hit = (_kept_at_each(pixels, len(maps)) for pixels in (place.flatten(), place[truth.flatten(1)]))
    return _overlap(every, hit, truth.flatten(1).sum(dim=1, keepdim=True).double(), truth[0].numel())


def _kept_at_each(place: Tensor, pictures: int) -> Float[Tensor, "N 255"]:
    counts = torch.bincount(place, minlength=pictures * (LEVELS + 1)).view(pictures, LEVELS + 1)
    return counts.flip(1).cumsum(dim=1).flip(1)[:, 1:].double()


def _overlap(kept: Tensor, hit: Tensor, annotated: Tensor, pixels: int) -> Overlap:
    """From counts of pixels."""
    nothing_there = (annotated == 0).expand_as(kept)
    iou = torch.where(nothing_there, (pixels - kept) / pixels, hit / (annotated + kept - hit).clamp(min=1))
    precision, recall = hit / kept.clamp(min=1), hit / annotated.clamp(min=1)
    f_score = (
        (1 + BETA_SQUARED)
        * precision
        * recall
        / (BETA_SQUARED * precision + recall).clamp(min=torch.finfo(hit.dtype).tiny)
    )
    return Overlap(iou, f_score.masked_fill(nothing_there, torch.nan))
