"""The two objectives of FeatUp on given random draws: of the stack, over many images, and of the fit to one image.

Source: reference 4.1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from model.upsamplers.downsamplers import AttentionDownsampler, SimpleDownsampler
from model.upsamplers.featup_losses import (
    CrfSettings,
    blur_pin,
    kernel_entropy,
    magnitude,
    magnitude_loss,
    reconstruction,
    sampled_crf,
    squared_magnitude,
    total_variation,
)
from model.upsamplers.views import View, warp

Downsampler = AttentionDownsampler | SimpleDownsampler
Keep = Bool[Tensor, "B f g"] | None


class StackWeights(NamedTuple):
    """Weights of the terms beside the reconstruction."""

    crf: float = 0.001
    tv: float = 0.0
    filter_entropy: float = 0.0


class ImplicitWeights(NamedTuple):
    """Weights of the terms beside the reconstruction."""

    magnitude: float = 0.001
    magnitude_tv: float = 0.05
    blur_pin: float = 0.1


class StackView(NamedTuple):
    """What one view of a batch of images adds to the objective.

    Attributes:
        view: the warp.
        features: of the encoder for the warped images.
        projection: to which features are projected before they are compared; None: none.
        keep: see AttentionDownsampler.
    """

    view: View
    features: Float[Tensor, "B C f g"]
    projection: Float[Tensor, "B C P"] | None = None
    keep: Keep = None


def stack_view_terms(
    upsampled: Float[Tensor, "B C T U"],
    image: Float[Tensor, "B 3 H W"],
    one: StackView,
    downsampler: Downsampler,
    scale: nn.Module | None,
    max_pad: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B P H W"]]:
    """The reconstruction of one view, and the warped (and projected) features, for the CRF.

    Args:
        upsampled: what the upsampler returned for `image`; resized bilinearly to its size.
        image: normalized.
        one: the view.
        downsampler: brings warped features to the grid of the encoder.
        scale: UncertaintyScale; None: mean squared error.
        max_pad: of the views.
    """
    if upsampled.shape[2:] != image.shape[2:]:
        upsampled = functional.interpolate(upsampled, image.shape[2:], mode="bilinear", align_corners=False)
    warped = warp(upsampled, one.view, max_pad)
    downsampled = (
        downsampler(warped, one.keep) if isinstance(downsampler, AttentionDownsampler) else downsampler(warped)
    )
    projected = [_project(part, one.projection) for part in (downsampled, one.features, warped)]
    deviation = None if scale is None else scale(one.features)
    return reconstruction(projected[0], projected[1], deviation), projected[2]


def stack_objective(
    upsampled: Float[Tensor, "B C T U"],
    image: Float[Tensor, "B 3 H W"],
    views: Sequence[StackView],
    downsampler: Downsampler,
    scale: nn.Module | None,
    max_pad: int,
    crf_pixels: tuple[Int[Tensor, "N"], Int[Tensor, "N"]],
    weights: StackWeights = StackWeights(),  # noqa: B008
    crf: CrfSettings = CrfSettings(),  # noqa: B008
    is_guidance_warped: bool = True,
) -> dict[str, Float[Tensor, ""]]:
    """Terms and `total` of one step.

    Args:
        crf_pixels: rows and columns of sampled pixels.
        is_guidance_warped: compare warped features with the warped image; False: with the image as it is, as the
            published code does.
        others: as in stack_view_terms.
    """
    zero = upsampled.new_zeros(())
    terms = {"reconstruction": zero, "crf": zero, "tv": zero, "filter_entropy": zero}
    for number, one in enumerate(views):
        loss, warped = stack_view_terms(upsampled, image, one, downsampler, scale, max_pad)
        terms["reconstruction"] = terms["reconstruction"] + loss / len(views)
        if number == 0 and weights.crf:
            guidance = warp(image, one.view, max_pad) if is_guidance_warped else image
            terms["crf"] = sampled_crf(guidance, warped, *crf_pixels, crf)
        if number == 0 and weights.tv:
            terms["tv"] = total_variation(squared_magnitude(warped))
        if weights.filter_entropy and isinstance(downsampler, SimpleDownsampler):
            terms["filter_entropy"] = terms["filter_entropy"] + kernel_entropy(downsampler.kernel)
    weighted = weights.crf * terms["crf"] + weights.tv * terms["tv"] - weights.filter_entropy * terms["filter_entropy"]
    return terms | {"total": terms["reconstruction"] + weighted}


def implicit_objective(
    upsampled: Float[Tensor, "1 C H W"],
    views: Sequence[View],
    features: Float[Tensor, "M C f g"],
    downsampler: Downsampler,
    scale: nn.Module | None,
    max_pad: int,
    keep: Keep = None,
    weights: ImplicitWeights = ImplicitWeights(),  # noqa: B008
) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, "M C+1 f g"]]:
    """Terms and `total` of one step of the fit, and the downsampled features with their magnitude in front.

    Args:
        upsampled: what the network returned for the image.
        views: M of them.
        features: of the encoder for each view.
        downsampler: of C + 1 channels.
        scale: UncertaintyScale; None: half of the mean squared error.
        max_pad, keep: as in stack_view_terms.
        weights: of the terms.
    """
    with_magnitude = torch.cat([magnitude(upsampled), upsampled], dim=1)
    warped = torch.cat([warp(with_magnitude, view, max_pad) for view in views])
    down = downsampler(warped, keep) if isinstance(downsampler, AttentionDownsampler) else downsampler(warped)
    deviation = torch.ones_like(down[:, :1]) if scale is None else scale(features)  # 1: half of the squared error
    zero = upsampled.new_zeros(())
    terms = {
        "reconstruction": reconstruction(down[:, 1:], features, deviation),
        "magnitude": magnitude_loss(down[:, :1], features) if weights.magnitude else zero,
        "magnitude_tv": total_variation(magnitude(upsampled)) if weights.magnitude_tv else zero,
        "blur_pin": blur_pin(upsampled) if weights.blur_pin else zero,
    }
    total = terms["reconstruction"] + sum(weight * terms[name] for name, weight in weights._asdict().items())
    return terms | {"total": total}, down


def _project(features: Float[Tensor, "B C H W"], projection: Float[Tensor, "B C P"] | None) -> Float[Tensor, "B P H W"]:
    return features if projection is None else torch.einsum("bchw,bcp->bphw", features, projection)
