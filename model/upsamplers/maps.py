"""Brings maps from the grid of a model to pixels."""

from jaxtyping import Float, UInt8
from torch import Tensor

from model.upsamplers import Upsampler
from model.upsamplers.interpolation import InterpolationWeights

# Weights of a guide have one number for each pixel and cell of its window: 0.3 GB for NAF at this ratio and 28 x 28.
MAX_RATIO = 16


def upsample_maps(
    upsampler: Upsampler,
    maps: Float[Tensor, "B N H W"],
    features: Float[Tensor, "B C H W"] | None,
    frames: UInt8[Tensor, "B 3 H_img W_img"] | None,
    size: tuple[int, int],
) -> Float[Tensor, "B N H_px W_px"]:
    """Upsample maps by the weights of an upsampler, to at most MAX_RATIO times the grid, and bilinearly from there.

    Args:
        features: of the model on the same grid, for upsamplers that read them; None: not needed.
        frames: the images, of any size; None: not needed.
        size: of the result in pixels (height, width).

    Raises:
        ValueError: the upsampler needs features or frames, which are None.
    """
    if upsampler.reads_image and frames is None:
        raise ValueError(f"{type(upsampler).__name__} is guided by the image: frames=None is not allowed")
    if upsampler.reads_features and features is None:
        raise ValueError(f"{type(upsampler).__name__} reads the features: features=None is not allowed")
    weights = upsampler.weights(frames, maps if features is None else features, _guided_size(maps, size))
    return InterpolationWeights(size).apply(weights.apply_maps(maps))


def upsample_features(
    upsampler: Upsampler,
    features: Float[Tensor, "B C H W"],
    frames: UInt8[Tensor, "B 3 H_img W_img"],
    size: tuple[int, int],
) -> Float[Tensor, "B C H_px W_px"]:
    """The same for features of an encoder."""
    weights = upsampler.weights(frames, features, _guided_size(features, size))
    return InterpolationWeights(size).apply(weights.apply(features))


def _guided_size(maps: Float[Tensor, "B N H W"], size: tuple[int, int]) -> tuple[int, int]:
    return min(size[0], MAX_RATIO * maps.shape[-2]), min(size[1], MAX_RATIO * maps.shape[-1])
