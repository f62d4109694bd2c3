"""Training objectives of AnyUp and NAF: upsampled features are compared with the features of high-resolution crops.

Crops are cut from the large image along the patches of the encoder, so each of their cells is a cell of the output.
Source: reference 4.2.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

MIN_RANGE = 1e-6


class CropTarget(NamedTuple):
    """What the encoder gives for one crop of each image.

    Attributes:
        row, column: of its first cell in the output.
        features: on the grid of the crop.
    """

    row: int
    column: int
    features: Float[Tensor, "B C f g"]


class CropWeights(NamedTuple):
    """Weights of the terms beside the reconstruction."""

    augmented: float = 0.1
    consistency: float = 0.1


def cosine_and_scaled_mse(output: Float[Tensor, "B C H W"], target: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """1 - cosine, and the mean squared error after scaling each cell so that its target fills 0 to 1 over channels."""
    cosine = functional.cosine_similarity(output, target, dim=1)
    low, high = target.amin(dim=1, keepdim=True), target.amax(dim=1, keepdim=True)
    scaled = (output - target) / (high - low).clamp(min=MIN_RANGE)
    return (1 - cosine).mean() + scaled.square().mean()


def crop_objective(
    upsampled: Float[Tensor, "B C H W"],
    features: Float[Tensor, "B C h w"],
    targets: Sequence[CropTarget],
    augmented: Float[Tensor, "B C H W"] | None = None,
    weights: CropWeights = CropWeights(),  # noqa: B008
    distance: Callable[[Tensor, Tensor], Tensor] = cosine_and_scaled_mse,
) -> dict[str, Float[Tensor, ""]]:
    """Terms and `total` of one step.

    Args:
        upsampled: features of the small image, on the grid of the large one.
        features: of the small image, which `upsampled` comes from.
        targets: crops of the large image.
        augmented: the same as `upsampled`, guided by an image with other colors; None: without this term.
        weights: of the terms.
        distance: of two feature maps; NAF takes torch.nn.functional.mse_loss.
    """
    zero = upsampled.new_zeros(())
    shrunk = functional.interpolate(upsampled, features.shape[2:], mode="area")
    terms = {
        "reconstruction": _reconstruction(upsampled, targets, distance),
        "augmented": zero if augmented is None else _reconstruction(augmented, targets, distance),
        "consistency": distance(shrunk, features) if weights.consistency else zero,
    }
    total = terms["reconstruction"] + sum(weight * terms[name] for name, weight in weights._asdict().items())
    return terms | {"total": total}


def _reconstruction(
    upsampled: Float[Tensor, "B C H W"],
    targets: Sequence[CropTarget],
    distance: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, ""]:
    losses = []
    for target in targets:
        rows, columns = target.features.shape[2:]
        crop = upsampled[:, :, target.row : target.row + rows, target.column : target.column + columns]
        losses.append(distance(crop, target.features))
    return torch.stack(losses).mean()
