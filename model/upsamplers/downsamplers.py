"""Downsamplers that train an upsampler: they bring its output to the grid of the encoder, where it is compared.

Source: reference 4.1.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as images

from model.upsamplers.window import Window, full_window, window_mix

PATCH_KEEP_PROBABILITY = 0.8


def blur(features: Float[Tensor, "B C H W"], kernel_size: int = 5, sigma: float = 1.0) -> Float[Tensor, "B C H W"]:
    """A Gaussian with reflected borders."""
    return images.gaussian_blur(features, [kernel_size, kernel_size], [sigma, sigma])


class AttentionDownsampler(nn.Module):
    """A mean over each patch, weighted by the softmax of a linear function of the features.

    Args:
        channels: of the features.
        kernel_size: side of a patch.
        final_size: rows of the output.
        is_blurred: blur the features first.
    """

    def __init__(self, channels: int, kernel_size: int, final_size: int, is_blurred: bool = True) -> None:
        super().__init__()
        self.kernel_size, self.final_size, self.is_blurred = kernel_size, final_size, is_blurred
        self.attention_net = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels, 1))
        self.w = nn.Parameter(1 + 0.01 * torch.randn(kernel_size, kernel_size))
        self.b = nn.Parameter(0.01 * torch.randn(kernel_size, kernel_size))

    def forward(
        self, features: Float[Tensor, "B C H W"], keep: Bool[Tensor, "B f g"] | None = None
    ) -> Float[Tensor, "B C f g"]:
        """Downsampled features.

        Args:
            features: of at least `kernel_size` rows and columns; rows and columns that the stride leaves over are not
                used.
            keep: False = a patch whose logits are set to 0; None: all True, or in training drawn with probability 0.8.

        Raises:
            ValueError: features smaller than a patch.
        """
        height, width = features.shape[2:]
        if min(height, width) < self.kernel_size:
            raise ValueError(f"features of {height} x {width} are smaller than a patch of {self.kernel_size}")
        features = blur(features) if self.is_blurred else features
        window = self._patches(height, width, features.device)
        logits = self.attention_net(features.permute(0, 2, 3, 1))[..., 0]
        patches = logits[:, window.rows[:, None, :, None], window.columns[None, :, None, :]]
        if keep is None and self.training:
            keep = torch.rand(patches.shape[:3], device=features.device) < PATCH_KEEP_PROBABILITY
        if keep is not None:
            patches = patches * keep[..., None, None]
        weights = (patches * self.w + self.b).flatten(3).softmax(dim=-1)
        return window_mix(features.permute(0, 2, 3, 1), weights[:, :, :, None], window).permute(0, 3, 1, 2)

    def _patches(self, height: int, width: int, device: torch.device) -> Window:
        stride = max(1, (height - self.kernel_size) // max(1, self.final_size - 1))
        columns = min(self.final_size * width // height, (width - self.kernel_size) // stride + 1)
        first_rows, first_columns = (stride * torch.arange(n, device=device) for n in (self.final_size, columns))
        taps = torch.arange(self.kernel_size, device=device)
        return full_window(first_rows[:, None] + taps, first_columns[:, None] + taps, (height, width))


class SimpleDownsampler(nn.Module):
    """One kernel for all channels, learned as absolute values that sum to 1.

    Args:
        kernel_size: its side.
        final_size: rows of the output.
    """

    def __init__(self, kernel_size: int, final_size: int) -> None:
        super().__init__()
        self.kernel_size, self.final_size = kernel_size, final_size
        self.kernel_params = nn.Parameter(torch.ones(kernel_size, kernel_size))

    @property
    def kernel(self) -> Float[Tensor, "k k"]:
        """The kernel."""
        return self.kernel_params.abs() / self.kernel_params.abs().sum()

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C f g"]:
        """Downsampled features."""
        stride = max(1, (features.shape[2] - self.kernel_size) // max(1, self.final_size - 1))
        one_by_one = features.flatten(0, 1)[:, None]
        return functional.conv2d(one_by_one, self.kernel[None, None], stride=stride)[:, 0].unflatten(
            0, (features.shape[0], features.shape[1])
        )[:, :, : self.final_size, : self.final_size * features.shape[3] // features.shape[2]]
