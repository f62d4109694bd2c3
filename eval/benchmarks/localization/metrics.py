"""Metrics of the localization data sets.

They have two steps, so that values can be gathered from ranks, resampled for intervals, or grouped by class.
`per_image` gives values of each image, first axis B, from its map at 224 x 224 and its annotated region; the value
`iou` is for tables of classes. `aggregate` gives metrics by `variant/metric`, 0 to 1, from the values of all items, and
`intervals` their 95 % intervals.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eval.benchmarks.localization.dataset import LocalizationExample
from eval.metrics.bootstrap import Interval, interval, mean_interval
from eval.metrics.detection import confidence, detection
from eval.metrics.localization import (
    SUCCESS_AT,
    areas,
    ciou,
    group_min,
    min_max_normalize,
    successes,
    threshold_at_area,
    threshold_at_median,
)
from eval.metrics.mask_iou import HALF, overlap, overlap_curves
from eval.metrics.threshold_selection import best_threshold, validation_mask

Values = Mapping[str, Tensor]


class LocalizationMetrics(ABC):
    """Metrics that are means of `terms`, one for each item or group of items; NaN terms do not count."""

    @abstractmethod
    def per_image(self, raw: Float[Tensor, "B H_px W_px"], truth: Float[Tensor, "B H_px W_px"]) -> dict[str, Tensor]:
        """Values of each image; `raw` has any range, `truth` is the annotated region, 0 to 1."""

    @abstractmethod
    def terms(self, values: Values, items: Sequence[LocalizationExample]) -> dict[str, Float[Tensor, "N"]]:
        """What each item, or each group of items, adds to the mean of each metric."""

    def aggregate(self, values: Values, items: Sequence[LocalizationExample]) -> dict[str, float]:
        """Metrics by `variant/metric`, without those that have no valid term."""
        metrics = {key: terms.nanmean().item() for key, terms in self.terms(values, items).items()}
        return {key: value for key, value in metrics.items() if value == value}

    def intervals(self, values: Values, items: Sequence[LocalizationExample], seed: int) -> dict[str, Interval]:
        """95 % intervals of all metrics.

        Groups are resampled as a whole; thresholds chosen on the items are not chosen again.
        """
        group = group_numbers(items)
        return {
            key: mean_interval(terms, seed, group if len(terms) == len(items) else None)
            for key, terms in self.terms(values, items).items()
            if not terms.isnan().all()
        }


class CIoUMetrics(LocalizationMetrics):
    """VGG-SS, Flickr-SoundNet, IS3: is the source where the map is bright? cIoU at 0.5 and AUC.

    Variants: `median` keeps the brighter half of each map, `adaptive` as many pixels as are annotated.

    Args:
        interactive: report iIoU and iAUC too, where an image counts only if all its prompts do.

    Source: reference 2.
    """

    def __init__(self, interactive: bool = False) -> None:
        self.interactive = interactive

    def per_image(self, raw: Float[Tensor, "B H_px W_px"], truth: Float[Tensor, "B H_px W_px"]) -> dict[str, Tensor]:
        """cIoU by variant."""
        maps = min_max_normalize(raw)
        adaptive = ciou(threshold_at_area(maps, truth), truth)
        return {"median": ciou(threshold_at_median(maps), truth), "adaptive": adaptive, "iou": adaptive}

    def terms(self, values: Values, items: Sequence[LocalizationExample]) -> dict[str, Float[Tensor, "N"]]:
        """`median/ciou`, `median/auc`, ..., `adaptive/iauc`."""
        terms: dict[str, Tensor] = {}
        for variant in ("median", "adaptive"):
            terms |= {f"{variant}/ciou": successes(values[variant]), f"{variant}/auc": areas(values[variant])}
            if self.interactive:
                worst = group_min(values[variant], group_numbers(items))
                terms |= {f"{variant}/iiou": successes(worst), f"{variant}/iauc": areas(worst)}
        return terms


class MaskMetrics(LocalizationMetrics):
    """AVSBench: how well does the map cover an exact mask? mIoU and F-score, means over frames.

    Variants: `median` and `adaptive` as in CIoUMetrics, `threshold_0.5` keeps values of 0.5 and more,
    `best_threshold_test` uses the best of 255 thresholds for all frames, `best_threshold_val` the threshold that is
    best on about half of the videos, evaluated on the others. Frames without a source have no F-score, and their IoU is
    the fraction of dark pixels: half by `median` and `adaptive`, which always keep the brighter half.

    Source: eval.metrics.mask_iou.
    """

    def per_image(self, raw: Float[Tensor, "B H_px W_px"], truth: Float[Tensor, "B H_px W_px"]) -> dict[str, Tensor]:
        """IoU and F-score by variant, and at each threshold."""
        maps, inside = min_max_normalize(raw), truth > 0
        values = {}
        for variant, kept in (("median", threshold_at_median(maps)), ("adaptive", threshold_at_area(maps, truth))):
            values[f"{variant}/miou"], values[f"{variant}/f_score"] = overlap(kept, inside)
        values["curves/miou"], values["curves/f_score"] = overlap_curves(maps, inside)
        return values | {"iou": values["adaptive/miou"]}

    def terms(self, values: Values, items: Sequence[LocalizationExample]) -> dict[str, Float[Tensor, "N"]]:
        """`median/miou`, ..., `best_threshold_val/f_score`."""
        validation = validation_mask([item.group for item in items])
        terms: dict[str, Tensor] = {}
        for metric in ("miou", "f_score"):
            curves = values[f"curves/{metric}"]
            terms |= {f"{variant}/{metric}": values[f"{variant}/{metric}"] for variant in ("median", "adaptive")}
            terms[f"threshold_0.5/{metric}"] = curves[:, HALF]
            terms[f"best_threshold_test/{metric}"] = curves[:, best_threshold(curves)]
            if validation.any():
                chosen = curves[:, best_threshold(curves[validation])]
                terms[f"best_threshold_val/{metric}"] = chosen.masked_fill(validation, torch.nan)
        return terms


class DetectionMetrics(LocalizationMetrics):
    """Extended data sets: is a source in view at all, and where? AP and max-F1, and cIoU of the images with one.

    Source: eval.metrics.detection.
    """

    def per_image(self, raw: Float[Tensor, "B H_px W_px"], truth: Float[Tensor, "B H_px W_px"]) -> dict[str, Tensor]:
        """cIoU and confidence."""
        located = ciou(threshold_at_median(min_max_normalize(raw)), truth)
        return {"median": located, "confidence": confidence(raw), "iou": located}

    def terms(self, values: Values, items: Sequence[LocalizationExample]) -> dict[str, Float[Tensor, "N"]]:
        """`median/ciou`."""
        return {"median/ciou": successes(values["median"]).masked_fill(~_in_view(items), torch.nan)}

    def aggregate(self, values: Values, items: Sequence[LocalizationExample]) -> dict[str, float]:
        """`median/ciou`, `median/ap`, `median/max_f1`."""
        average_precision, max_f1 = detection(values["confidence"], values["median"] >= SUCCESS_AT, _in_view(items))
        return super().aggregate(values, items) | {"median/ap": average_precision, "median/max_f1": max_f1}

    def intervals(self, values: Values, items: Sequence[LocalizationExample], seed: int) -> dict[str, Interval]:
        scores, located, in_view = values["confidence"], values["median"] >= SUCCESS_AT, _in_view(items)

        def metric(index: int, rows: Tensor) -> float:
            return detection(scores[rows], located[rows], in_view[rows])[index]

        average_precision, max_f1 = (
            interval(partial(metric, index), len(items), seed, group_numbers(items)) for index in (0, 1)
        )
        return super().intervals(values, items, seed) | {"median/ap": average_precision, "median/max_f1": max_f1}


def group_numbers(items: Sequence[LocalizationExample]) -> Int[Tensor, "N"]:
    """The same number for items of the same group, counted from 0."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(item.group for item in items))}
    return torch.tensor([numbers[item.group] for item in items])


def _in_view(items: Sequence[LocalizationExample]) -> Bool[Tensor, "N"]:
    return torch.tensor([item.in_view for item in items])
