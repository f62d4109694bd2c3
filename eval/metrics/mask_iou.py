"""Overlap of a heatmap with an exact mask: IoU and F-score of each image, at one or at 255 thresholds.

Source: Zhou et al., Audio-Visual Segmentation, ECCV 2022 (AVSBench).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BETA_SQUARED = 0.3
LEVELS = 255
# Index of the threshold 0.5.
HALF = LEVELS // 2


class Overlap(NamedTuple):
    """Both 0 to 1.

    For an image without an annotated pixel, `iou` is the fraction of pixels not selected and `f_score` is NaN.
    """

    iou: Float[Tensor, "*items"]
    f_score: Float[Tensor, "*items"]


def overlap(predicted: Bool[Tensor, "N H_px W_px"], truth: Bool[Tensor, "N H_px W_px"]) -> Overlap:
    """Overlap of each image.

    Args:
        predicted: True at the pixels that a map selects.
        truth: True at the annotated pixels.
    """
    selected, hit, annotated = (mask.flatten(1).sum(dim=1).double() for mask in (predicted, predicted & truth, truth))
    return _overlap(selected, hit, annotated, truth[0].numel())


def overlap_curves(maps: Float[Tensor, "N H_px W_px"], truth: Bool[Tensor, "N H_px W_px"]) -> Overlap:
    """Overlap of each image at each threshold 0, 1/254, ..., 1; pixels at or above it are selected.

    Args:
        maps: 0 to 1.
        truth: True at the annotated pixels.

    Returns:
        Both [N, 255].
    """
    thresholds = torch.linspace(0, 1, LEVELS, device=maps.device, dtype=maps.dtype)
    # The bucket of a pixel is the number of thresholds it reaches; a cumulative sum from the top counts pixels at or
    # above each.
    image = torch.arange(len(maps), device=maps.device)[:, None]
    bucket = torch.bucketize(maps.flatten(1), thresholds, right=True) + (LEVELS + 1) * image
    predicted, hit = (_counts_at_levels(buckets, len(maps)) for buckets in (bucket.flatten(), bucket[truth.flatten(1)]))
    return _overlap(predicted, hit, truth.flatten(1).sum(dim=1, keepdim=True).double(), truth[0].numel())


def _counts_at_levels(buckets: Tensor, images: int) -> Float[Tensor, "N 255"]:
    counts = torch.bincount(buckets, minlength=images * (LEVELS + 1)).view(images, LEVELS + 1)
    return counts.flip(1).cumsum(dim=1).flip(1)[:, 1:].double()


def _overlap(predicted: Tensor, hit: Tensor, annotated: Tensor, pixels: int) -> Overlap:
    """Overlap from numbers of pixels: selected, correctly selected, annotated, all."""
    empty = (annotated == 0).expand_as(predicted)
    iou = torch.where(empty, (pixels - predicted) / pixels, hit / (annotated + predicted - hit).clamp(min=1))
    precision, recall = hit / predicted.clamp(min=1), hit / annotated.clamp(min=1)
    denominator = (BETA_SQUARED * precision + recall).clamp(min=torch.finfo(hit.dtype).tiny)
    f_score = (1 + BETA_SQUARED) * precision * recall / denominator
    return Overlap(iou, f_score.masked_fill(empty, torch.nan))
