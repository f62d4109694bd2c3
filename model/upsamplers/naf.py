"""NAF: weights from the image alone, over 9 x 9 low-resolution cells, for features of any encoder.

Each of four heads has weights of its own, for a quarter of the channels. The rotary embedding is written from its
formula.

Source: reference 4.2.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from model.dtypes import upcast_half
from model.upsamplers.guidance import channels_last, check_size, normalize_image
from model.upsamplers.guide_blocks import GROUPS, pool
from model.upsamplers.weights import WindowWeights
from model.upsamplers.window import Window, full_window, window_scores

HEADS, WINDOW_CELLS = 4, 9
MAX_IMAGE_RATIO = 4
ROPE_BASE = 100.0


class Naf(nn.Module):
    """The network that computes weights.

    Args:
        channels: of each of the two branches; queries and keys have twice as many.
    """

    reads_image: ClassVar[bool] = True
    reads_features: ClassVar[bool] = False

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.pixel_branch, self.context_branch = _branch(channels, 1), _branch(channels, 3)

    def weights(
        self, image: UInt8[Tensor, "B 3 H_img W_img"], features: Float[Tensor, "B C H W"], size: tuple[int, int]
    ) -> WindowWeights:
        """Weights from the grid of the features to `size`.

        Raises:
            ValueError: an image of another aspect, or a size without pixels.
        """
        grid = (features.shape[2], features.shape[3])
        return self.guided_weights(normalize_image(image, grid), grid, size)

    def guided_weights(
        self,
        guidance: Float[Tensor, "B 3 H_img W_img"],
        grid: tuple[int, int],
        size: tuple[int, int],
        coordinate_scale: float = 1.0,
    ) -> WindowWeights:
        """The same for a normalized image.

        Args:
            coordinate_scale: of the rotary embedding; drawn log-uniformly from 1/2 to 2 in training.
        """
        check_size(size)
        guidance = channels_last(guidance, next(self.parameters()).dtype)
        guidance = _shrink(guidance, (MAX_IMAGE_RATIO * size[0], MAX_IMAGE_RATIO * size[1]))
        encoded = pool(torch.cat([self.pixel_branch(guidance), self.context_branch(guidance)], dim=1), size)
        queries = rotate(encoded, HEADS, coordinate_scale)
        keys = pool(queries, grid)
        window = nearest_window(grid, size, WINDOW_CELLS).to(guidance.device)
        scale = (queries.shape[1] // HEADS) ** -0.5
        query, key = (upcast_half(part.permute(0, 2, 3, 1)) for part in (queries * scale, keys))
        logits = window_scores(query, key, window, HEADS)
        return WindowWeights(window, logits.softmax(dim=-1).to(queries.dtype))


def nearest_window(grid: tuple[int, int], size: tuple[int, int], side: int) -> Window:
    """The `side` x `side` cells around that of each pixel; at borders the window moves inwards.

    A grid with fewer rows or columns has all of them in the window.
    """
    axes = []
    for cells, pixels in zip(grid, size, strict=True):
        own = torch.arange(pixels) * cells // pixels
        length = min(side, cells)
        first = (own - length // 2).clamp(0, cells - length)
        axes.append(first[:, None] + torch.arange(length))
    return full_window(axes[0], axes[1], grid)


def rotate(features: Float[Tensor, "B C H W"], heads: int, scale: float = 1.0) -> Float[Tensor, "B C H W"]:
    """Rotary position embedding in each head: half of the angles by rows, half by columns; pixel centers in -1 to 1.

    Args:
        heads: K; D is a multiple of 4.
        scale: of the coordinates.
    """
    quarter = features.shape[1] // heads // 4
    dtype = torch.promote_types(features.dtype, torch.float32)
    period = ROPE_BASE ** (torch.arange(quarter, device=features.device, dtype=dtype) / quarter)
    rows, columns = (
        2 * torch.pi * scale * ((torch.arange(n, device=features.device, dtype=dtype) + 0.5) / n * 2 - 1)
        for n in features.shape[2:]
    )
    by_row = (rows[:, None] / period).T[:, :, None].expand(-1, -1, len(columns))
    by_column = (columns[:, None] / period).T[:, None, :].expand(-1, len(rows), -1)
    angles = torch.cat([by_row, by_column])
    first, second = features.unflatten(1, (heads, 2, 2 * quarter)).unbind(2)
    cos, sin = angles.cos().to(features.dtype), angles.sin().to(features.dtype)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=2).flatten(1, 3)


def _branch(channels: int, kernel: int) -> nn.Sequential:
    padding = kernel // 2
    layers: list[nn.Module] = [nn.Conv2d(3, channels, kernel, padding=padding)]
    for _ in range(2):
        for _ in range(2):
            layers += [
                nn.GroupNorm(GROUPS, channels),
                nn.SiLU(),
                nn.Conv2d(channels, channels, kernel, padding=padding),
            ]
    return nn.Sequential(*layers)


def _shrink(image: Float[Tensor, "B 3 H W"], largest: tuple[int, int]) -> Float[Tensor, "B 3 H_out W_out"]:
    """An image of at most `largest` rows and columns; a larger one is averaged."""
    height, width = image.shape[2:]
    size = (min(height, largest[0]), min(width, largest[1]))
    return image if size == (height, width) else functional.adaptive_avg_pool2d(image, size)
