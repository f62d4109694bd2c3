"""Upsamplers with weights, without their encoders: the modules that `model.convert` fills and folders store."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.upsamplers.anyup import AnyUp
from model.upsamplers.channel_norm import ChannelNorm
from model.upsamplers.implicit import implicit_upsampler
from model.upsamplers.jafar import Jafar
from model.upsamplers.jbu import Jbu
from model.upsamplers.naf import Naf


class FeatUpStack(nn.Module):
    """FeatUp's stack with the normalization of the features that it was trained with.

    Args:
        channels: C of the features.
        has_norm: normalize them over channels.
    """

    def __init__(self, channels: int, has_norm: bool) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels) if has_norm else nn.Identity()
        self.upsampler = Jbu(channels)

    def forward(
        self, features: Float[Tensor, "B C H W"], guidance: Float[Tensor, "B 3 H_img W_img"]
    ) -> Float[Tensor, "B C H_out W_out"]:
        """Features of the encoder on 16 times the grid, for a normalized image."""
        return self.upsampler(self.norm(features), guidance)


class ImplicitFeatures(nn.Module):
    """The implicit upsampler of one image.

    Args:
        channels: D, the width of the network.
        frequencies, has_color: of the Fourier features.
        feature_channels: C of the encoder; 0: the network gives the features themselves.
    """

    components: Tensor
    mean: Tensor

    def __init__(self, channels: int, frequencies: int, has_color: bool, feature_channels: int = 0) -> None:
        super().__init__()
        self.settings = {
            "channels": channels,
            "frequencies": frequencies,
            "has_color": has_color,
            "feature_channels": feature_channels,
        }
        self.network = implicit_upsampler(channels, frequencies, has_color)
        self.is_projected = feature_channels > 0
        if self.is_projected:
            self.register_buffer("components", torch.zeros(channels, feature_channels))
            self.register_buffer("mean", torch.zeros(feature_channels))

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C H W"]:
        """Features of each pixel of the image that the network was fitted to."""
        features = self.network(image)
        if not self.is_projected:
            return features
        return torch.einsum("bdhw,dc->bchw", features, self.components) + self.mean[:, None, None]


KINDS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "featup": FeatUpStack,
        "featup_implicit": ImplicitFeatures,
        "anyup": AnyUp,
        "jbu": Jbu,
        "naf": Naf,
        "jafar": Jafar,
    }
)
