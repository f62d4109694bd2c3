"""Bicubic upsampling: the second control of learned upsamplers."""

from typing import NamedTuple

from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional


class BicubicWeights(NamedTuple):
    """Weights that follow from the target size alone."""

    size: tuple[int, int]

    def apply(self, maps: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N H_px W_px"]:
        """Interpolate between cell centers; values may lie outside the range of the maps."""
        return functional.interpolate(maps, self.size, mode="bicubic", align_corners=False)


class Bicubic:
    """Bicubic interpolation, the same for every image."""

    def weights(
        self,
        image: UInt8[Tensor, "B 3 H_img W_img"] | None,  # noqa: ARG002
        grid: tuple[int, int],  # noqa: ARG002
        size: tuple[int, int],
    ) -> BicubicWeights:
        """Weights for a size in pixels (height, width); image and grid are not used."""
        return BicubicWeights(size)
