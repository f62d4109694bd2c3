"""Sound source localisation: cIoU of a heatmap with the annotated region, and what is reported of many (share at 0.5, area under the curve)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SUCCESS_AT = 0.5
AUC_THRESHOLDS = 21


def above_median(maps: Float[Tensor, "N H_px W_px"]) -> Bool[Tensor, "N H_px W_px"]:
    """The pixels of each map strictly above its median (of an even number, the upper one). Source: reference 2."""
    ordered = maps.flatten(1).sort(dim=1).values
    return maps > ordered[:, ordered.shape[1] // 2, None, None]


def as_many_as_annotated(maps: Float[Tensor, "N H_px W_px"], truth: Float[Tensor, "N H_px W_px"]) -> Bool[Tensor, "N H_px W_px"]:
    """The pixels of each map strictly above a threshold that keeps about as many as the annotation has; none where it has none.

    Source: reference 2 (adaptive).
    """
    ordered = maps.flatten(1).sort(dim=1).values
    pixels = ordered.shape[1]
    place = (pixels - (truth > 0).flatten(1).sum(dim=1)).clamp(max=pixels - 1)
    return maps > ordered.gather(1, place[:, None])[..., None]


def ciou(kept: Bool[Tensor, "N H_px W_px"], truth: Float[Tensor, "N H_px W_px"]) -> Float[Tensor, "N"]:
    """Consensus IoU of each map: sum(P G) / (sum G + sum of P where G is 0).

    Args:
        kept: P, True where a map claims the source.
        truth: G, 0 to 1: the share of annotators who marked a pixel.

    Returns:
        0 to 1; 0 where nothing is annotated and nothing claimed.

    Source: reference 2.
    """
    hit = (kept * truth).flatten(1).sum(dim=1)
    union = truth.flatten(1).sum(dim=1) + (kept & (truth == 0)).flatten(1).sum(dim=1)
    return hit / union.clamp(min=torch.finfo(truth.dtype).tiny)


def success(values: Float[Tensor, "N"]) -> float:
    """Share of the images at or above 0.5."""
    return (values >= SUCCESS_AT).double().mean().item()


def area_under_curve(values: Float[Tensor, "N"]) -> float:
    """Trapezoid over thresholds 0, 0.05, ..., 1 of the share of images at or above each. Source: reference 2."""
    thresholds = torch.linspace(0, 1, AUC_THRESHOLDS, dtype=torch.float64)
    shares = (values[None].double().cpu() >= thresholds[:, None]).double().mean(dim=1)
    return torch.trapezoid(shares, thresholds).item()


def worst_of_group(values: Float[Tensor, "N"], group: Int[Tensor, "N"]) -> Float[Tensor, "G"]:
    """The smallest value of each group: interactive IoU counts an image only if all its prompts reach the threshold. Source: reference 2."""
    _, number = group.unique(return_inverse=True)
    worst = values.new_full((int(number.max()) + 1,), torch.inf)
    return worst.scatter_reduce(0, number, values, reduce="amin")
