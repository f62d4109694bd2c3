"""FeatUp's upsampler: four stages of joint bilateral upsampling, each of which doubles the grid.

A stage resizes its source bicubically and filters it with a kernel of 7 x 7 that the image alone decides, the same for
all channels. So a stage is one window of low-resolution cells, the final mix of channels is made on the small grid, and
a heatmap is upsampled as one channel.

Source: reference 4.1.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from model.dtypes import upcast_half
from model.upsamplers.bicubic_window import filtered_bicubic, fold
from model.upsamplers.guidance import channels_last, check_size, normalize_image
from model.upsamplers.weights import ChainedWeights, EncoderWeights, WindowWeights
from model.upsamplers.window import centered_window, reflect, window_scores

STAGES = 4
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-4, 1e4
MIN_KERNEL_SUM = 1e-7
FIXUP = 0.1


class JbuStage(nn.Module):
    """The kernel of one stage.

    Args:
        radius: of the kernel, in pixels of the output grid.
        key_channels: width of the keys, whose inner products are the range kernel.
        guidance_channels: of the image.
    """

    def __init__(self, radius: int = 3, key_channels: int = 32, guidance_channels: int = 3) -> None:
        super().__init__()
        self.radius, taps = radius, (2 * radius + 1) ** 2
        self.range_temp = nn.Parameter(torch.tensor(0.0))
        self.sigma_spatial = nn.Parameter(torch.tensor(1.0))
        self.range_proj = _mlp(guidance_channels, key_channels, key_channels)
        self.fixup_proj = _mlp(taps + guidance_channels, taps, taps)

    def kernel(self, guidance: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B H W N"]:
        """The kernel at each pixel, in raster order; it need not sum to 1 and may be negative.

        Raises:
            ValueError: the grid is too small for the radius.
        """
        window = centered_window((guidance.shape[2], guidance.shape[3]), self.radius, reflect)
        guidance = channels_last(guidance, self.range_temp.dtype)
        keys = upcast_half(self.range_proj(guidance)).permute(0, 2, 3, 1)
        temperature = upcast_half(self.range_temp).exp().clamp(MIN_TEMPERATURE, MAX_TEMPERATURE)
        similar = (temperature * window_scores(keys, keys, window)[:, :, :, 0]).softmax(dim=-1)
        kernel = similar * self.spatial_kernel()
        kernel = kernel / kernel.sum(dim=-1, keepdim=True).clamp(min=MIN_KERNEL_SUM)
        correction = self.fixup_proj(torch.cat([kernel.permute(0, 3, 1, 2).to(guidance.dtype), guidance], dim=1))
        return kernel + FIXUP * correction.permute(0, 2, 3, 1)

    def spatial_kernel(self) -> Float[Tensor, "N"]:
        """A Gaussian of the distance, in units of the radius."""
        side = torch.linspace(-1, 1, 2 * self.radius + 1, device=self.sigma_spatial.device)
        squared = side[:, None] ** 2 + side**2
        return (-squared / (2 * self.sigma_spatial**2)).exp().flatten()

    def weights(self, guidance: Float[Tensor, "B 3 H W"], grid: tuple[int, int]) -> WindowWeights:
        """The weights of the cells of `grid` for each pixel of the guidance: bicubic resizing and kernel together."""
        filter_window = centered_window((guidance.shape[2], guidance.shape[3]), self.radius, reflect)
        filter_window = filter_window.to(guidance.device)
        window, *matrices = filtered_bicubic(grid, filter_window.rows, filter_window.columns)
        kernel = self.kernel(guidance)
        values = fold(kernel, *(matrix.to(kernel.dtype) for matrix in matrices))
        return WindowWeights(window, values[:, :, :, None].to(self.range_temp.dtype))


class Jbu(nn.Module):
    """The stack. Only the final mix, `fixup_proj`, belongs to the encoder it was trained for.

    Args:
        channels: of the encoder's features; 0: no final mix, for maps alone.
    """

    reads_image: ClassVar[bool] = True
    reads_features: ClassVar[bool] = False

    def __init__(self, channels: int = 0) -> None:
        super().__init__()
        self.channels = channels
        self.up1, self.up2, self.up3, self.up4 = (JbuStage() for _ in range(STAGES))
        self.fixup_proj = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(channels, channels, 1)) if channels else None

    @property
    def stages(self) -> tuple[JbuStage, ...]:
        """In the order in which they are applied."""
        return self.up1, self.up2, self.up3, self.up4

    def weights(
        self,
        image: UInt8[Tensor, "B 3 H_img W_img"],
        features: Float[Tensor, "B C H W"],
        size: tuple[int, int] | None = None,
    ) -> EncoderWeights:
        """Weights from the grid of the features to `size`; None: 16 times the grid. Features pass the final mix.

        Raises:
            ValueError: a grid of less than 2 x 2 cells, an image of another aspect, or a size without pixels.
        """
        grid = (features.shape[2], features.shape[3])
        chain = self.guided_weights(normalize_image(image, grid), grid, size)
        return EncoderWeights(chain, lambda features: self.upsample(features, chain))

    def guided_weights(
        self, guidance: Float[Tensor, "B 3 H_img W_img"], grid: tuple[int, int], size: tuple[int, int] | None = None
    ) -> ChainedWeights:
        """The same for a normalized image, without the final mix."""
        if min(grid) < 2:
            raise ValueError(f"features of {grid[0]} x {grid[1]} cells: the stack needs 2 x 2 and more")
        if size is not None:
            check_size(size)
        stages, current = [], grid
        for stage in self.stages:
            target = (2 * current[0], 2 * current[1])
            stages.append(stage.weights(functional.adaptive_avg_pool2d(guidance, target), current))
            current = target
        return ChainedWeights(stages, size or current)

    def forward(
        self, features: Float[Tensor, "B C H W"], guidance: Float[Tensor, "B 3 H_img W_img"]
    ) -> Float[Tensor, "B C H_out W_out"]:
        """Upsampled features for a normalized image."""
        weights = self.guided_weights(guidance, (features.shape[2], features.shape[3]))
        return self.upsample(features, weights)

    def upsample(self, features: Float[Tensor, "B C H W"], weights: ChainedWeights) -> Float[Tensor, "B C H_px W_px"]:
        """Apply weights to features of the encoder, with the final mix of channels.

        Raises:
            ValueError: features of another encoder.
        """
        if self.fixup_proj is None:
            return weights.apply(features)
        if features.shape[1] != self.channels:
            raise ValueError(f"features of {features.shape[1]} channels, weights of an encoder with {self.channels}")
        drop, conv = self.fixup_proj
        weight, bias = (getattr(conv, name) for name in ("weight", "bias"))
        mixed = features + FIXUP * functional.conv2d(drop(features.to(weight.dtype)), weight)
        return weights.apply(mixed).add_(FIXUP * bias[:, None, None])


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.GELU(), nn.Dropout2d(0.1), nn.Conv2d(hidden, outputs, 1))
