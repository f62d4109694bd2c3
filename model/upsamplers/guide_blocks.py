"""Parts that AnyUp and JAFAR share: the encoder of images, rotary position embedding, attention over windows or cells.

Source: reference 4.2.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from model.dtypes import upcast_half
from model.upsamplers.window import Window, window_scores

GROUPS = 8
MAX_FREQUENCY_RATIO = 100.0
# Numbers of the queries whose weights are computed at once.
NUMBERS_PER_BLOCK = 2**20


class ResBlock(nn.Module):
    """Twice normalization, SiLU and a 1 x 1 convolution, added to the input.

    Args:
        channels: of the input and output, a multiple of `groups`.
        groups: of the normalization.
    """

    def __init__(self, channels: int, groups: int = GROUPS) -> None:
        super().__init__()
        layers = (
            (nn.GroupNorm(groups, channels), nn.SiLU(inplace=True), nn.Conv2d(channels, channels, 1, bias=False))
            for _ in "12"
        )
        self.block = nn.Sequential(*(layer for triple in layers for layer in triple))

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Features of the same shape."""
        return self.block(features).add_(features)


def encoder(inputs: int, channels: int, kernel: int = 1, groups: int = GROUPS) -> nn.Sequential:
    """A convolution with reflected borders and two ResBlocks."""
    # With "reflect", torch would copy the features to pad them by 0.
    mode: Literal["reflect", "zeros"] = "reflect" if kernel > 1 else "zeros"
    first = nn.Conv2d(inputs, channels, kernel, padding=kernel // 2, padding_mode=mode, bias=False)
    return nn.Sequential(first, ResBlock(channels, groups), ResBlock(channels, groups))


class RotaryEmbedding(nn.Module):
    """Rotates pairs of channels by angles that are linear in row and column, 0 to 1; the angle table is learned.

    Args:
        channels: a multiple of 4: the first half starts with angles by rows, the second by columns.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        frequencies = 2 * math.pi * MAX_FREQUENCY_RATIO ** torch.linspace(0, -1, channels // 4)
        table = torch.zeros(2, 2, channels // 2)
        table[0, 0] = table[1, 1] = frequencies.repeat(2)
        self.freqs = nn.Parameter(table.flatten(1))

    def forward(self, features: Float[Tensor, "B D H W"]) -> Float[Tensor, "B D H W"]:
        """Rotated features."""
        table = upcast_half(self.freqs)  # angles reach hundreds: too much for half precision
        rows, columns = (torch.linspace(0, 1, n, device=features.device, dtype=table.dtype) for n in features.shape[2:])
        first, second = features.chunk(2, dim=1)
        half = features.shape[1] // 2

        def turn(part: Tensor, other: Tensor, frequencies: Tensor) -> Tensor:
            angles = rows[:, None, None] * frequencies[0] + columns[:, None] * frequencies[1]
            angles = angles.permute(2, 0, 1)
            cos, sin = angles.cos().to(part.dtype), angles.sin().to(part.dtype)
            return torch.addcmul(part * cos, other, sin)

        return torch.cat([turn(first, -second, table[:, :half]), turn(second, first, table[:, half:])], dim=1)


class CrossAttention(nn.Module):
    """Attention of pixels over low-resolution cells; its weights, the mean over heads, mix raw features.

    Args:
        channels: D of queries and keys.
        heads: a divisor of D.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_q, self.norm_k = nn.RMSNorm(channels), nn.RMSNorm(channels)
        self.query, self.key = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def project(
        self, queries: Float[Tensor, "B D H W"], keys: Float[Tensor, "B D h w"]
    ) -> tuple[Float[Tensor, "B H W D"], Float[Tensor, "B h w D"]]:
        """Queries and keys, channels last, scaled so that their inner products are the logits."""
        return self._query(queries), self.key(self.norm_k(keys.permute(0, 2, 3, 1)))

    def window_weights(
        self, queries: Float[Tensor, "B D H W"], keys: Float[Tensor, "B D h w"], window: Window
    ) -> Float[Tensor, "B H W 1 N"]:
        """Softmax over the cells of each window; padding has weight 0.

        Computed in blocks of rows, so that logits and normalized queries of all pixels are never held at once.
        """
        key = self.key(self.norm_k(keys.permute(0, 2, 3, 1)))
        rows = max(1, NUMBERS_PER_BLOCK // (len(queries) * queries.shape[1] * queries.shape[3]))
        blocks = zip(queries.split(rows, dim=2), window.split_rows(rows), strict=True)
        return torch.cat([self._block_weights(block, key, part) for block, part in blocks], dim=1)

    def _block_weights(
        self, queries: Float[Tensor, "B D H W"], key: Float[Tensor, "B h w D"], window: Window
    ) -> Float[Tensor, "B H W 1 N"]:
        logits = window_scores(upcast_half(self._query(queries)), upcast_half(key), window, self.heads)
        hidden = ~window.valid[:, :, None]
        return logits.masked_fill(hidden, -torch.inf).softmax(dim=-1).mean(dim=3, keepdim=True).to(queries.dtype)

    def _query(self, queries: Float[Tensor, "B D H W"]) -> Float[Tensor, "B H W D"]:
        return self.query(self.norm_q(queries.permute(0, 2, 3, 1))) * (queries.shape[1] // self.heads) ** -0.5


def pool(features: Float[Tensor, "B C H W"], size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """Adaptive average; features of this size stay as they are."""
    return features if features.shape[2:] == size else functional.adaptive_avg_pool2d(features, size)
