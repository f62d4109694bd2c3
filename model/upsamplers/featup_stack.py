"""FeatUp's stack for the encoder that it was trained on."""

from typing import ClassVar

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from model.upsamplers.channel_norm import ChannelNorm
from model.upsamplers.jbu import Jbu
from model.upsamplers.weights import EncoderWeights


class FeatUpStack(nn.Module):
    """The stack with the normalization of the features that it was trained with.

    Args:
        channels: C of the features.
        has_norm: normalize them over channels.
    """

    reads_image: ClassVar[bool] = True
    reads_features: ClassVar[bool] = False

    def __init__(self, channels: int, has_norm: bool) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels) if has_norm else nn.Identity()
        self.upsampler = Jbu(channels)

    def weights(
        self, image: UInt8[Tensor, "B 3 H_img W_img"], features: Float[Tensor, "B C H W"], size: tuple[int, int]
    ) -> EncoderWeights:
        """Weights from the grid of the features to `size`; errors as Jbu.weights."""
        chain = self.upsampler.weights(image, features, size).chain
        return EncoderWeights(chain, lambda features: self.upsampler.upsample(self.norm(features), chain))

    def forward(
        self, features: Float[Tensor, "B C H W"], guidance: Float[Tensor, "B 3 H_img W_img"]
    ) -> Float[Tensor, "B C H_out W_out"]:
        """Features of the encoder on 16 times the grid, for a normalized image."""
        return self.upsampler(self.norm(features), guidance)
