"""Is anything in the picture sounding at all, and where? Average precision and F1 of a confidence, for sets in which some sounds have no source in view.

A picture whose confidence reaches a threshold is a claim: right where a source is in view and the map points at it, wrong otherwise. Precision is
the share of right claims; recall sets the right ones beside the visible sources that went unclaimed: a claim in the wrong place counts only
against precision.

Source: Mo and Morgado, A Closer Look at Weakly-Supervised Audio-Visual Source Localization, NeurIPS 2022 (SLAVC), whose extended test sets these are.
Differs from the reference: AP takes every confidence as a threshold, from the highest on; there it takes about 200 of them, without the highest.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TOP_SHARE = 0.25
# As in the reference: with all of them max-F1 comes out about a point higher than what is published.
F1_THRESHOLDS = 10


class Detection(NamedTuple):
    """Both 0 to 1, 1 is best."""

    average_precision: float
    max_f1: float


def confidence(maps: Float[Tensor, "N H_px W_px"]) -> Float[Tensor, "N"]:
    """How sure each map is of a source in view: the mean of its largest quarter, on the map's own scale, before any scaling."""
    pixels = maps.flatten(1)
    return pixels.topk(max(1, int(pixels.shape[1] * TOP_SHARE)), dim=1).values.mean(dim=1)


def detection(confidence: Float[Tensor, "N"], found: Bool[Tensor, "N"], visible: Bool[Tensor, "N"]) -> Detection:
    """Area under precision over recall, made monotone, and the largest F1 at every tenth of the items' confidences.

    Args:
        sure: confidence, any range; equal ones enter together.
        found: True where the map points at the annotated region.
        visible: True where a source is in view; where it is False, `found` is not looked at.

    Raises:
        ValueError: no item, or NaN among the confidences.
    """
    if not len(confidence) or confidence.isnan().any():
        raise ValueError(
            f"detection needs items and confidences that are numbers, got {len(confidence)}, {int(confidence.isnan().sum())} of them NaN"
        )
    confidence, order = confidence.sort(descending=True)
    right, in_view = (
        (found & visible)[order].cumsum(0, dtype=torch.float64),
        visible[order].cumsum(0, dtype=torch.float64),
    )
    place = torch.cat([confidence[1:] != confidence[:-1], confidence.new_ones(1, dtype=torch.bool)]).nonzero()[:, 0]
    right, unclaimed = right[place], in_view[-1] - in_view[place]
    precision = right / (place + 1)
    # With nothing right and nothing unclaimed, recall is 1, as in the reference.
    recall = torch.where(right + unclaimed > 0, right / (right + unclaimed).clamp(min=1), 1.0)
    best_from_here_on = precision.flip(0).cummax(dim=0).values.flip(0)
    gained = torch.diff(recall, prepend=recall.new_zeros(1))
    f1 = 2 * precision * recall / (precision + recall).clamp(min=torch.finfo(recall.dtype).tiny)
    tenths = torch.arange(len(confidence) - 1, -1, -max(1, len(confidence) // F1_THRESHOLDS), device=confidence.device)
    return Detection((gained * best_from_here_on).sum().item(), f1[torch.searchsorted(place, tenths)].max().item())
