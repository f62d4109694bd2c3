"""Detection of visible sources: average precision and F1 of a confidence, for test sets with off-screen sources.

An image whose confidence reaches a threshold is a detection: correct if a source is in view and the heatmap points at
it. Precision is the fraction of correct detections. Recall is correct / (correct + visible sources below the
threshold), so a detection in the wrong place lowers precision only.

Source: Mo and Morgado, A Closer Look at Weakly-Supervised Audio-Visual Source Localization, NeurIPS 2022 (SLAVC), whose
extended test sets these are. Differs from the reference: AP uses every confidence as a threshold; the reference uses
about 200 of them, without the highest.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TOP_FRACTION = 0.25
# As in the reference: with all thresholds, max-F1 is about a point above the published values.
F1_THRESHOLDS = 10


class Detection(NamedTuple):
    """Both 0 to 1, higher is better."""

    average_precision: float
    max_f1: float


def confidence(maps: Float[Tensor, "N H_px W_px"]) -> Float[Tensor, "N"]:
    """Confidence that a source is in view: the mean of the largest quarter of an unscaled map."""
    pixels = maps.flatten(1)
    return pixels.topk(max(1, int(pixels.shape[1] * TOP_FRACTION)), dim=1).values.mean(dim=1)


def detection(confidence: Float[Tensor, "N"], found: Bool[Tensor, "N"], visible: Bool[Tensor, "N"]) -> Detection:
    """Area under the monotone precision-recall curve, and the largest F1 over every tenth of the sorted confidences.

    Args:
        confidence: any range; equal values share a threshold.
        found: True where the map points at the annotated region.
        visible: True where a source is in view; `found` is ignored elsewhere.

    Raises:
        ValueError: no items, or a confidence that is NaN.
    """
    if not len(confidence) or confidence.isnan().any():
        raise ValueError(
            f"detection needs at least one item and no NaN confidence, got {len(confidence)} items, "
            f"{int(confidence.isnan().sum())} of them NaN"
        )
    confidence, order = confidence.sort(descending=True)
    correct = (found & visible)[order].cumsum(0, dtype=torch.float64)
    in_view = visible[order].cumsum(0, dtype=torch.float64)
    # The last item of each run of equal confidences.
    last = torch.cat([confidence[1:] != confidence[:-1], confidence.new_ones(1, dtype=torch.bool)]).nonzero()[:, 0]
    correct, undetected = correct[last], in_view[-1] - in_view[last]
    precision = correct / (last + 1)
    # Without correct detections and without undetected sources, recall is 1, as in the reference.
    recall = torch.where(correct + undetected > 0, correct / (correct + undetected).clamp(min=1), 1.0)
    monotone = precision.flip(0).cummax(dim=0).values.flip(0)
    gained = torch.diff(recall, prepend=recall.new_zeros(1))
    f1 = 2 * precision * recall / (precision + recall).clamp(min=torch.finfo(recall.dtype).tiny)
    tenths = torch.arange(len(confidence) - 1, -1, -max(1, len(confidence) // F1_THRESHOLDS), device=confidence.device)
    return Detection((gained * monotone).sum().item(), f1[torch.searchsorted(last, tenths)].max().item())
