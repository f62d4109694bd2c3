"""What each kind of localisation set reports, in two steps, so that values can be gathered from ranks, drawn again for intervals, or counted by class.

`of_pictures` gives values of each picture, first axis B, from its map at 224 x 224 on its own scale and its annotated region, 0 to 1; the value called
`iou` is what tables of classes show. `of_set` gives figures by `variant/metric`, 0 to 1, from the values of these items, `intervals` their intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eval.benchmarks.localization.dataset import LocalizationExample
from eval.metrics.bootstrap import Interval, interval, mean_interval
from eval.metrics.detection import confidence, detection
from eval.metrics.localization import (
    SUCCESS_AT,
    area_of_each,
    ciou,
    group_min,
    min_max_normalize,
    threshold_at_area,
    threshold_at_median,
)
from eval.metrics.mask_iou import HALF, overlap, overlap_curves
from eval.metrics.threshold_selection import best_threshold, validation_mask

Values = Mapping[str, Tensor]


class _Means:
    """Figures that are means of `parts`, numbers of items or of groups of items; NaN ones are not counted."""

    def parts(self, values: Values, items: Sequence[LocalizationExample]) -> dict[str, Tensor]:
        raise NotImplementedError

    def aggregate(self, values: Values, items: Sequence[LocalizationExample]) -> dict[str, float]:
        """Figures by `variant/metric`; those of which nothing is to be counted are left out."""
        figures = {key: part.nanmean().item() for key, part in self.parts(values, items).items()}
        return {key: value for key, value in figures.items() if value == value}

    def intervals(self, values: Values, items: Sequence[LocalizationExample], seed: int) -> dict[str, Interval]:
        """95 % of every figure; what belongs together is drawn together. A threshold that was chosen on the items is not chosen again."""
        group = group_numbers(items)
        parts = {key: part for key, part in self.parts(values, items).items() if not part.isnan().all()}
        return {
            key: mean_interval(part, seed, group if len(part) == len(items) else None) for key, part in parts.items()
        }


class CIoUMetrics(_Means):
    """VGG-SS, Flickr-SoundNet, IS3: is the source where the map is bright? cIoU at 0.5 and AUC.

    Variants: `median` keeps the brighter half of each map, `adaptive` as many pixels as are annotated.

    Args:
        interactive: report iIoU and iAUC too, where a picture counts only if all its prompts do.

    Source: reference 2.
    """

    def __init__(self, interactive: bool = False) -> None:
        self.interactive = interactive

    def per_image(self, raw: Float[Tensor, "B H_px W_px"], truth: Float[Tensor, "B H_px W_px"]) -> dict[str, Tensor]:
        """cIoU by variant."""
        maps = min_max_normalize(raw)
        adaptive = ciou(threshold_at_area(maps, truth), truth)
        return {"median": ciou(threshold_at_median(maps), truth), "adaptive": adaptive, "iou": adaptive}

    def parts(self, values: Values, items: Sequence[LocalizationExample]) -> dict[str, Tensor]:
        """`median/ciou`, `median/auc`, ..., `adaptive/iauc`."""
        parts = {}
        for variant in ("median", "adaptive"):
            parts |= {f"{variant}/ciou": _successes(values[variant]), f"{variant}/auc": area_of_each(values[variant])}
            if self.interactive:
                worst = group_min(values[variant], group_numbers(items))
                parts |= {f"{variant}/iiou": _successes(worst), f"{variant}/iauc": area_of_each(worst)}
        return parts


class MaskMetrics(_Means):
    """AVSBench: how well does the map cover an exact mask? mIoU and F-score, means over frames.

    Variants: `median` and `adaptive` as in CIoUMetrics, `threshold_0.5` keeps what reaches 0.5, `best_threshold_test` the best of 255 thresholds for all frames,
    `best_threshold_val` the threshold best on about half of the videos, judged on the others. Frames without a source have no F-score, and their IoU is
    the share of pixels left dark: half of them by `median` and `adaptive`, which always claim the brighter half there.

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

    def parts(self, values: Values, items: Sequence[LocalizationExample]) -> dict[str, Tensor]:
        """`median/miou`, ..., `best_threshold_val/f_score`."""
        validation = validation_mask([item.group for item in items])
        parts = {}
        for metric in ("miou", "f_score"):
            curves = values[f"curves/{metric}"]
            parts |= {f"{variant}/{metric}": values[f"{variant}/{metric}"] for variant in ("median", "adaptive")}
            parts |= {
                f"threshold_0.5/{metric}": curves[:, HALF],
                f"best_threshold_test/{metric}": curves[:, best_threshold(curves)],
            }
            if validation.any():
                parts[f"best_threshold_val/{metric}"] = curves[:, best_threshold(curves[validation])].masked_fill(
                    validation, torch.nan
                )
        return parts


class DetectionMetrics(_Means):
    """Extended sets: is a source in view at all, and where? AP and max-F1, and cIoU of the pictures with one. Source: eval.metrics.detection."""

    def per_image(self, raw: Float[Tensor, "B H_px W_px"], truth: Float[Tensor, "B H_px W_px"]) -> dict[str, Tensor]:
        """cIoU and confidence."""
        located = ciou(threshold_at_median(min_max_normalize(raw)), truth)
        return {"median": located, "confidence": confidence(raw), "iou": located}

    def parts(self, values: Values, items: Sequence[LocalizationExample]) -> dict[str, Tensor]:
        """`median/ciou`."""
        return {"median/ciou": _successes(values["median"]).masked_fill(~_in_view(items), torch.nan)}

    def aggregate(self, values: Values, items: Sequence[LocalizationExample]) -> dict[str, float]:
        """`median/ciou`, `median/ap`, `median/max_f1`."""
        average_precision, max_f1 = detection(values["confidence"], values["median"] >= SUCCESS_AT, _in_view(items))
        return super().aggregate(values, items) | {"median/ap": average_precision, "median/max_f1": max_f1}

    def intervals(self, values: Values, items: Sequence[LocalizationExample], seed: int) -> dict[str, Interval]:
        """95 % of every figure."""
        confidence, found, in_view, group = (
            values["confidence"],
            values["median"] >= SUCCESS_AT,
            _in_view(items),
            group_numbers(items),
        )
        drawn = {
            f"median/{name}": interval(
                lambda rows, place=place: detection(confidence[rows], found[rows], in_view[rows])[place],
                len(items),
                seed,
                group,
            )
            for place, name in enumerate(("ap", "max_f1"))
        }
        return super().intervals(values, items, seed) | drawn


Measure = CIoUMetrics | MaskMetrics | DetectionMetrics


def group_numbers(items: Sequence[LocalizationExample]) -> Int[Tensor, "N"]:
    """The same number for items of the same group, counted from 0."""
    number = {group: place for place, group in enumerate(dict.fromkeys(item.group for item in items))}
    return torch.tensor([number[item.group] for item in items])


def _successes(values: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    return (values >= SUCCESS_AT).double()


def _in_view(items: Sequence[LocalizationExample]) -> Bool[Tensor, "N"]:
    return torch.tensor([item.in_view for item in items])
