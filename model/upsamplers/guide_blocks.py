"""Parts that AnyUp and JAFAR share: the encoder of images, rotary position embedding, attention over windows or cells.

Source: reference 4.2.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from model.upsamplers.window import Window, window_scores

GROUPS = 8
MAX_FREQUENCY_RATIO = 100.0


class ResBlock(nn.Module):
    """Twice normalization, SiLU and a 1 x 1 convolution, added to the input.

    Args:
        channels: of the input and output, a multiple of `groups`.
        groups: of the normalization.
    """

    def __init__(self, channels: int, groups: int = GROUPS) -> None:
        super().__init__()
        layers = (
            (nn.GroupNorm(groups, channels), nn.SiLU(), nn.Conv2d(channels, channels, 1, bias=False)) for _ in "12"
        )
        self.block = nn.Sequential(*(layer for triple in layers for layer in triple))

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Features of the same shape."""
        return features + self.block(features)


def encoder(inputs: int, channels: int, kernel: int = 1, groups: int = GROUPS) -> nn.Sequential:
    """A convolution with reflected borders and two ResBlocks."""
    first = nn.Conv2d(inputs, channels, kernel, padding=kernel // 2, padding_mode="reflect", bias=False)
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
        rows, columns = (
            torch.linspace(0, 1, n, device=features.device, dtype=self.freqs.dtype) for n in features.shape[2:]
        )
        angles = rows[:, None, None] * self.freqs[0] + columns[:, None] * self.freqs[1]
        angles = angles.permute(2, 0, 1)
        first, second = features.chunk(2, dim=1)
        return features * angles.cos() + torch.cat([-second, first], dim=1) * angles.sin()


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
        scale = (queries.shape[1] // self.heads) ** -0.5
        query = self.query(self.norm_q(queries.permute(0, 2, 3, 1))) * scale
        return query, self.key(self.norm_k(keys.permute(0, 2, 3, 1)))

    def window_weights(
        self, queries: Float[Tensor, "B D H W"], keys: Float[Tensor, "B D h w"], window: Window
    ) -> Float[Tensor, "B H W 1 N"]:
        """Softmax over the cells of each window; padding has weight 0."""
        query, key = self.project(queries, keys)
        hidden = ~window.valid
        total = query.new_zeros(())
        for one_query, one_key in zip(query.chunk(self.heads, dim=3), key.chunk(self.heads, dim=3), strict=True):
            logits = window_scores(one_query, one_key, window)[:, :, :, 0]
            total = total + logits.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        return (total / self.heads)[:, :, :, None]


def pool(features: Float[Tensor, "B C H W"], size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """Adaptive average."""
    return functional.adaptive_avg_pool2d(features, size)
