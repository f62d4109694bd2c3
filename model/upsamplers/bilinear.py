"""Bilinear upsampling: the control of every learned upsampler, and the default of all heatmaps."""

from typing import NamedTuple

from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional


class BilinearWeights(NamedTuple):
    """Weights that follow from the target size alone."""

    size: tuple[int, int]

    def apply(self, maps: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N H_px W_px"]:
        """Interpolate between cell centers; maps of the target size stay as they are."""
        is_resized = tuple(maps.shape[-2:]) == self.size
        return maps if is_resized else functional.interpolate(maps, self.size, mode="bilinear", align_corners=False)


class Bilinear:
    """Bilinear interpolation, the same for every image."""

    def weights(
        self,
        image: UInt8[Tensor, "B 3 H_img W_img"] | None,  # noqa: ARG002
        grid: tuple[int, int],  # noqa: ARG002
        size: tuple[int, int],
    ) -> BilinearWeights:
        """Weights for a size in pixels (height, width); image and grid are not used."""
        return BilinearWeights(size)


def resize_maps(maps: Float[Tensor, "B H W"], size: tuple[int, int]) -> Float[Tensor, "B H_px W_px"]:
    """Resize maps bilinearly."""
    return BilinearWeights(size).apply(maps[:, None])[:, 0]
