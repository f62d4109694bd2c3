"""Sound source localisation: from maps of any size to cIoU with the annotated region, and what is reported of many (share at 0.5, area under the curve).

Source: reference 2.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.upsamplers.bilinear import resize_maps

SIDE_PX = 224
SUCCESS_AT = 0.5
AUC_THRESHOLDS = 21


def resize_to_224(maps: Float[Tensor, "N H W"]) -> Float[Tensor, "N H_px W_px"]:
    """Resize maps bilinearly to 224 x 224, the size of all annotations. Source: reference 2."""
    return resize_maps(maps, (SIDE_PX, SIDE_PX))


def min_max_normalize(maps: Float[Tensor, "N H W"]) -> Float[Tensor, "N H W"]:
    """Bring each map to 0 to 1 by its own smallest and largest value; a flat one becomes 0. Source: reference 2."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def threshold_at_median(maps: Float[Tensor, "N H_px W_px"]) -> Bool[Tensor, "N H_px W_px"]:
    """The pixels of each map strictly above its median (of an even number, the upper one). Source: reference 2."""
    pixels = maps.flatten(1)
    return maps > pixels.kthvalue(pixels.shape[1] // 2 + 1, dim=1).values[:, None, None]


def threshold_at_area(
    maps: Float[Tensor, "N H_px W_px"], truth: Float[Tensor, "N H_px W_px"]
) -> Bool[Tensor, "N H_px W_px"]:
    """The pixels of each map strictly above a threshold that keeps about as many as the annotation has; where it has none, the brighter half.

    Source: reference 2 (adaptive); the half as in the code of the sets' authors. To keep nothing would credit any map with knowing that nothing sounds.
    """
    ordered = maps.flatten(1).sort(dim=1).values
    pixels = ordered.shape[1]
    annotated = (truth > 0).flatten(1).sum(dim=1)
    place = pixels - torch.where(annotated > 0, annotated, pixels // 2)
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


def success_rate(values: Float[Tensor, "N"]) -> float:
    """Share of the images at or above 0.5."""
    return (values >= SUCCESS_AT).double().mean().item()


def area_under_curve(values: Float[Tensor, "N"]) -> float:
    """Trapezoid over thresholds 0, 0.05, ..., 1 of the share of images at or above each. Source: reference 2."""
    return area_of_each(values).mean().item()


def area_of_each(values: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """What each image adds to the area under the curve of all, which is the mean of these."""
    thresholds = torch.linspace(0, 1, AUC_THRESHOLDS, dtype=torch.float64)
    return torch.trapezoid((values[:, None].double().cpu() >= thresholds).double(), thresholds, dim=1)


def group_min(values: Float[Tensor, "N"], group: Int[Tensor, "N"]) -> Float[Tensor, "G"]:
    """The smallest value of each group: interactive IoU counts an image only if all its prompts reach the threshold. Source: reference 2."""
    _, number = group.unique(return_inverse=True)
    worst = values.new_full((int(number.max()) + 1,), torch.inf)
    return worst.scatter_reduce(0, number, values, reduce="amin")
