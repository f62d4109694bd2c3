"""Feature and heatmap upsamplers by name: for each image, weights that mix low-resolution cells into pixels.

An upsampler is `weights(image, grid, size) -> weights`, and weights are `apply(maps [B N H W]) -> [B N H_px W_px]`.
Adding one: its file, its name in UPSAMPLERS, its docs.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor

from model.upsamplers.interpolation import Bicubic, Bilinear


@runtime_checkable
class UpsamplingWeights(Protocol):
    """The mixing weights of one batch of images; they may be applied to features and maps alike."""

    def apply(self, maps: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N H_px W_px"]:
        """Upsample N channels or maps of each image."""


@runtime_checkable
class Upsampler(Protocol):
    """Computes mixing weights for a batch of images."""

    def weights(
        self, image: UInt8[Tensor, "B 3 H_img W_img"] | None, grid: tuple[int, int], size: tuple[int, int]
    ) -> UpsamplingWeights:
        """Weights from `grid` (rows, columns) to `size` (pixels), guided by the image if the method needs it."""


UPSAMPLERS: dict[str, type[Upsampler]] = {"bilinear": Bilinear, "bicubic": Bicubic}
