"""FeatUp's implicit upsampler: a small network of the coordinates and colors of one image, fitted to its features.

Source: reference 4.1.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.upsamplers.channel_norm import ChannelNorm

MIN_RANGE = 1e-4
LOG_FREQUENCIES = (-2.0, 10.0)


class MinMaxScaler(nn.Module):
    """Scales each channel to -0.5 to 0.5 over batch and space."""

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The scaled image."""
        low, high = (bound(dim=(0, 2, 3), keepdim=True) for bound in (image.amin, image.amax))
        return (image - low) / (high - low).clamp(min=MIN_RANGE) - 0.5


class FourierFeatures(nn.Module):
    """Sines and cosines of coordinates (-1 to 1) and colors.

    Args:
        frequencies: their number, from exp(-2) to exp(10).
        has_color: use the colors too.
        has_biases: learn a phase for each sine and cosine.
    """

    def __init__(self, frequencies: int = 30, has_color: bool = True, has_biases: bool = True) -> None:
        super().__init__()
        self.has_color, inputs = has_color, 5 if has_color else 2
        self.out_channels = 2 * frequencies * inputs + 3 * has_color
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.linspace(*LOG_FREQUENCIES, frequencies).exp(), persistent=False)
        # The shape of saved models; it is read as [2, frequencies, inputs].
        self.biases = nn.Parameter(torch.randn(2, inputs, frequencies)) if has_biases else None

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D H W"]:
        """Sines, then cosines, then the colors; frequencies outside, inputs inside."""
        rows, columns = (torch.linspace(-1, 1, n, device=image.device, dtype=image.dtype) for n in image.shape[2:])
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None].expand(len(image), -1, -1, -1)
        inputs = torch.cat([grid, image], dim=1) if self.has_color else grid
        angles = (self.frequencies[:, None, None, None] * inputs[:, None]).flatten(1, 2)
        sine = cosine = angles
        if self.biases is not None:
            sine, cosine = (angles + bias[:, None, None] for bias in self.biases.reshape(2, -1))
        parts = [sine.sin(), cosine.cos()]
        return torch.cat([*parts, image] if self.has_color else parts, dim=1)


def implicit_upsampler(channels: int = 128, frequencies: int = 30, has_color: bool = True) -> nn.Sequential:
    """The network: an image [B 3 H W] to features [B channels H W]; names of parameters as in saved models."""
    features = FourierFeatures(frequencies, has_color)
    return nn.Sequential(
        MinMaxScaler(),
        features,
        ChannelNorm(features.out_channels),
        nn.Dropout2d(0.2),
        nn.Conv2d(features.out_channels, channels, 1),
        nn.ReLU(),
        nn.Dropout2d(0.2),
        ChannelNorm(channels),
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1),
    )


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
