"""Sound source localization: cIoU of heatmaps with annotated regions, success rate at 0.5, area under the curve.

Source: reference 2.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.upsamplers.interpolation import resize_maps

SIDE_PX = 224
SUCCESS_AT = 0.5
AUC_THRESHOLDS = 21


def resize_to_224(maps: Float[Tensor, "N H W"]) -> Float[Tensor, "N H_px W_px"]:
    """Resize maps bilinearly to 224 x 224, the size of all annotations. Source: reference 2."""
    return resize_maps(maps, (SIDE_PX, SIDE_PX))


def min_max_normalize(maps: Float[Tensor, "N H W"]) -> Float[Tensor, "N H W"]:
    """Scale each map to 0 to 1 by its own minimum and maximum; a constant map becomes 0. Source: reference 2."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def threshold_at_median(maps: Float[Tensor, "N H_px W_px"]) -> Bool[Tensor, "N H_px W_px"]:
    """The pixels of each map strictly above its median (the upper one of an even number). Source: reference 2."""
    pixels = maps.flatten(1)
    return maps > pixels.kthvalue(pixels.shape[1] // 2 + 1, dim=1).values[:, None, None]


def threshold_at_area(
    maps: Float[Tensor, "N H_px W_px"], truth: Float[Tensor, "N H_px W_px"]
) -> Bool[Tensor, "N H_px W_px"]:
    """The pixels of each map strictly above a threshold that selects about as many as are annotated (if none, half).

    Source: reference 2 (adaptive); half as in the code of the sets' authors. Selecting nothing would credit every map
    with recognizing that nothing sounds.
    """
    ordered = maps.flatten(1).sort(dim=1).values
    pixels = ordered.shape[1]
    annotated = (truth > 0).flatten(1).sum(dim=1)
    index = pixels - torch.where(annotated > 0, annotated, pixels // 2)
    return maps > ordered.gather(1, index[:, None])[..., None]


def ciou(predicted: Bool[Tensor, "N H_px W_px"], truth: Float[Tensor, "N H_px W_px"]) -> Float[Tensor, "N"]:
    """Consensus IoU of each map: sum(P G) / (sum G + sum of P where G is 0).

    Args:
        predicted: P, True at the pixels that a map selects.
        truth: G, 0 to 1: the fraction of annotators who marked a pixel.

    Returns:
        0 to 1; 0 if nothing is annotated and nothing selected.

    Source: reference 2.
    """
    hit = (predicted * truth).flatten(1).sum(dim=1)
    union = truth.flatten(1).sum(dim=1) + (predicted & (truth == 0)).flatten(1).sum(dim=1)
    return hit / union.clamp(min=torch.finfo(truth.dtype).tiny)


def successes(values: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """1 for each image at or above 0.5, else 0: their mean is the success rate. Source: reference 2."""
    return (values >= SUCCESS_AT).double()


def areas(values: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """The contribution of each image to the area under the curve, which is their mean.

    The curve is the fraction of images at or above each of the thresholds 0, 0.05, ..., 1; its area is a trapezoid sum.
    Source: reference 2.
    """
    thresholds = torch.linspace(0, 1, AUC_THRESHOLDS, dtype=torch.float64)
    return torch.trapezoid((values[:, None].double().cpu() >= thresholds).double(), thresholds, dim=1)


def group_min(values: Float[Tensor, "N"], group: Int[Tensor, "N"]) -> Float[Tensor, "G"]:
    """The smallest value of each group: for interactive IoU, all prompts of an image must reach the threshold.

    Source: reference 2.
    """
    _, index = group.unique(return_inverse=True)
    worst = values.new_full((int(index.max()) + 1,), torch.inf)
    return worst.scatter_reduce(0, index, values, reduce="amin")
