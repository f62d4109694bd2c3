"""Upsamplers of features and maps: for each image, weights that mix low-resolution cells into pixels.

An upsampler is `weights(image, features, size) -> weights`, and weights are `apply(features)` and `apply_maps(maps)`.
Adding one: its file, its name in UPSAMPLERS (if it has no weights to load) or in model.upsamplers.saved, its docs.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor

from model.upsamplers.interpolation import Bicubic, Bilinear


@runtime_checkable
class UpsamplingWeights(Protocol):
    """The mixing weights of one batch of images, for any number of features and maps of their grid."""

    def apply(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H_px W_px"]:
        """Upsample features."""

    def apply_maps(self, maps: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N H_px W_px"]:
        """Upsample maps, such as heatmaps: any number, each with the same weights."""


@runtime_checkable
class Upsampler(Protocol):
    """Computes mixing weights for a batch of images.

    Attributes:
        reads_image: False: the image may be None.
        reads_features: False: only the grid of the features counts, so that maps may stand in their place.
    """

    @property
    def reads_image(self) -> bool: ...

    @property
    def reads_features(self) -> bool: ...

    def weights(
        self,
        image: UInt8[Tensor, "B 3 H_img W_img"] | None,
        features: Float[Tensor, "B C H W"],
        size: tuple[int, int],
    ) -> UpsamplingWeights:
        """Weights from the grid of the features to `size` in pixels (height, width)."""


UPSAMPLERS: dict[str, type[Upsampler]] = {"bilinear": Bilinear, "bicubic": Bicubic}
