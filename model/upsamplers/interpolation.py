"""Bilinear and bicubic upsampling: the controls of every learned upsampler; bilinear is the default of heatmaps."""

from typing import ClassVar, NamedTuple

from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional


class InterpolationWeights(NamedTuple):
    """Weights that follow from the target size alone.

    Attributes:
        size: in pixels (height, width).
        mode: of torch's interpolate.
    """

    size: tuple[int, int]
    mode: str = "bilinear"

    def apply(self, maps: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N H_px W_px"]:
        """Interpolate between cell centers; maps of the target size stay as they are."""
        is_resized = tuple(maps.shape[-2:]) == self.size
        return maps if is_resized else functional.interpolate(maps, self.size, mode=self.mode, align_corners=False)

    def apply_maps(self, maps: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N H_px W_px"]:
        """The same."""
        return self.apply(maps)


class Bilinear:
    """Bilinear interpolation, the same for every image."""

    reads_image: ClassVar[bool] = False
    reads_features: ClassVar[bool] = False
    mode: ClassVar[str] = "bilinear"

    def weights(
        self,
        image: UInt8[Tensor, "B 3 H_img W_img"] | None,  # noqa: ARG002
        features: Float[Tensor, "B C H W"],  # noqa: ARG002
        size: tuple[int, int],
    ) -> InterpolationWeights:
        """Weights for a size in pixels (height, width); image and features are not used."""
        return InterpolationWeights(size, self.mode)


class Bicubic(Bilinear):
    """Bicubic interpolation, the same for every image; values may lie outside the range of the maps."""

    mode: ClassVar[str] = "bicubic"


def resize_maps(maps: Float[Tensor, "B H W"], size: tuple[int, int]) -> Float[Tensor, "B H_px W_px"]:
    """Resize maps bilinearly."""
    return InterpolationWeights(size).apply(maps[:, None])[:, 0]
