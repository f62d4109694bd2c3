"""Prompted segmentation: scaling of heatmaps, average precision and IoU over all pixels of a class.

Source: reference 1.6.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from model.dtypes import upcast_half
from model.upsamplers.interpolation import resize_maps

WINDOW_MARGIN_S = 0.2
THRESHOLDS = 20


def word_window(timing_s: Float[Tensor, "B 2"], steps: int, duration_s: Float[Tensor, "B"]) -> Bool[Tensor, "B T"]:
    """The audio steps of a word and of 0.2 s before and after it.

    Args:
        timing_s: start and end of the word in each clip.
        steps: T, the number of audio steps in `duration_s`.
        duration_s: length of the encoded audio.

    Returns:
        True inside the window, which is clipped to the audio and contains at least one step.

    Source: reference 1.6. Differs from the reference: a window may start before 0 and may reach the end of the clip
    (fault 4).
    """
    steps_per_s = steps / duration_s
    first = ((timing_s[:, 0] - WINDOW_MARGIN_S) * steps_per_s).floor().clamp(0, steps - 1)
    end = ((timing_s[:, 1] + WINDOW_MARGIN_S) * steps_per_s).ceil().clamp(max=steps)
    position = torch.arange(steps, device=timing_s.device)
    return (position >= first[:, None]) & (position < torch.maximum(end, first + 1)[:, None])


def normalize_and_upsample(
    maps: Float[Tensor, "B H W"], low: float, high: float, height_px: int, width_px: int
) -> Float[Tensor, "B H_px W_px"]:
    """Scale maps by the minimum and maximum of the whole set, then resize bilinearly to the size of the labels.

    Scaling comes first: the other order changes the last bits, and with them the order of equal pixels at the borders.

    Args:
        low, high: minimum and maximum over the maps of the set; if they are equal, all values become 0.

    Source: reference 1.6.
    """
    scaled = (maps - low) / (high - low) if high > low else torch.zeros_like(maps)
    return resize_maps(scaled, (height_px, width_px))


def average_precision(scores: Float[Tensor, "N"], relevant: Bool[Tensor, "N"]) -> float:
    """Area under the precision-recall steps, exact; equal scores share a threshold.

    Args:
        scores: any range.
        relevant: True for positive items.

    Returns:
        0 to 1; NaN without a positive item.

    Raises:
        ValueError: NaN scores.
    """
    if scores.isnan().any():
        raise ValueError(f"average precision: {int(scores.isnan().sum())} of {scores.numel()} scores are NaN")
    return precision_of_sorted(_sorted(scores), _sorted(scores[relevant])) if relevant.any() else math.nan


def precision_of_sorted(scores: Shaped[np.ndarray, "N"], positive: Shaped[np.ndarray, "M"]) -> float:
    """Average precision from sorted scores: the mean of the precision at each positive score.

    Sorting values alone is faster than sorting with indices: 250 million pixels of 150 classes take 8 instead of 26 s
    on one core.

    Args:
        scores: of all items, ascending.
        positive: of the positive items, at least one, ascending.
    """
    hit = len(positive) - np.searchsorted(positive, positive)
    return float((hit / (len(scores) - np.searchsorted(scores, positive))).mean())


def best_iou(scores: Float[Tensor, "N"], relevant: Bool[Tensor, "N"]) -> float:
    """Intersection over union at the best of 20 thresholds, evenly spaced from the smallest to the largest score.

    Scores strictly above a threshold are selected.

    Returns:
        0 to 1; 0 for an empty union.

    Source: reference 1.6.
    """
    ordered, positive = _sorted(scores), _sorted(scores[relevant])
    levels = thresholds(ordered[[0, -1]])
    selected, hit = (count_at_or_above(values, levels, strictly=True) for values in (ordered, positive))
    return float(iou_of_counts(selected, hit, np.array(len(positive))).max())


def thresholds(ends: Float[np.ndarray, "2"]) -> Float[np.ndarray, "20"]:
    """Evenly spaced from the smallest to the largest score, both included."""
    low, high = ends.tolist()
    return torch.linspace(low, high, THRESHOLDS, dtype=torch.from_numpy(ends).dtype).numpy()


def count_at_or_above(
    ordered: Shaped[np.ndarray, "N"], levels: Shaped[np.ndarray, "Q"], strictly: bool = False
) -> Int[np.ndarray, "Q"]:
    """Number of scores, in ascending order, at or above each level (`strictly`: above)."""
    return len(ordered) - np.searchsorted(ordered, levels, side="right" if strictly else "left")


def iou_of_counts(
    selected: Shaped[np.ndarray, "*n Q"], hit: Shaped[np.ndarray, "*n Q"], relevant: Shaped[np.ndarray, "*n"]
) -> Float[np.ndarray, "*n Q"]:
    """Intersection over union at each threshold; 0 for an empty union.

    Args:
        selected: pixels above each threshold.
        hit: relevant pixels among them.
        relevant: all relevant pixels.
    """
    return hit / np.maximum(relevant[..., None] + selected - hit, 1)


def _sorted(scores: Float[Tensor, "N"]) -> Shaped[np.ndarray, "N"]:
    return np.sort(upcast_half(scores).cpu().numpy())
