"""AnyUp: weights from the image and the features of any encoder, over a window of low-resolution cells.

Source: reference 4.2.
"""

import math
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from model.dtypes import upcast_half
from model.upsamplers.guidance import channels_last, check_size, normalize_image
from model.upsamplers.guide_blocks import GROUPS, CrossAttention, ResBlock, RotaryEmbedding, encoder, pool
from model.upsamplers.weights import WindowWeights
from model.upsamplers.window import Window

# Responses of filters that are held at once.
RESPONSES_PER_BLOCK = 2**22


class FeatureUnification(nn.Module):
    """Features of any number of channels to D: how much each of D filters responds, averaged over the channels.

    Args:
        channels: D.
        kernel: side of the filters.
        groups: of the normalization.
        published_order: read the responses in the axis order of the published code, which mixes channels and filters,
            so that results depend on the order of the channels; released weights need it.
    """

    def __init__(self, channels: int, kernel: int, groups: int, published_order: bool) -> None:
        super().__init__()
        self.published_order = published_order
        self.basis = nn.Parameter(torch.randn(channels, 1, kernel, kernel) / kernel)
        self.blocks = nn.Sequential(ResBlock(channels, groups), ResBlock(channels, groups))

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Unified features."""
        return self.blocks(self.unify(features))

    def unify(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """The mean over channels of the softmax of the responses; in blocks of rows: a cell has C x D responses."""
        filters, (_, channels, height, width) = len(self.basis), features.shape
        radius = self.basis.shape[2] // 2
        normalized = functional.normalize(upcast_half(features), dim=1).to(self.basis.dtype)
        inside = functional.conv2d(torch.ones_like(normalized[:1, :1]), torch.ones_like(self.basis[:1]), padding=radius)
        padded = functional.pad(normalized, [radius] * 4)
        rows = max(1, RESPONSES_PER_BLOCK // (len(features) * channels * filters * width))
        blocks = [
            self._unify_rows(padded[:, :, first : first + rows + 2 * radius], inside[:, :, first : first + rows])
            for first in range(0, height, rows)
        ]
        return torch.cat(blocks, dim=2)

    def _unify_rows(
        self, padded: Float[Tensor, "B C H_padded W_padded"], inside: Float[Tensor, "1 1 H W"]
    ) -> Float[Tensor, "B D H W"]:
        filters, (batch, channels) = len(self.basis), padded.shape[:2]
        response = functional.conv2d(padded.flatten(0, 1)[:, None], self.basis) / inside
        response = response.unflatten(0, (batch, channels))
        if self.published_order:
            return response.flatten(1, 2).unflatten(1, (filters, channels)).softmax(dim=1).mean(dim=2)
        return response.softmax(dim=2).mean(dim=1)


class AnyUp(nn.Module):
    """The network that computes weights.

    Args:
        channels: D, of queries and keys.
        heads: of the attention.
        window_ratio: half the side of the window, as a fraction of the image; 0: all cells.
        kernel: side of the filters of the feature unification.
        published_order: see FeatureUnification.
        groups: of the normalizations.
    """

    reads_image: ClassVar[bool] = True
    reads_features: ClassVar[bool] = True

    def __init__(
        self,
        channels: int = 128,
        heads: int = 4,
        window_ratio: float = 0.1,
        kernel: int = 5,
        published_order: bool = False,
        groups: int = GROUPS,
    ) -> None:
        super().__init__()
        self.window_ratio = window_ratio
        self.image_encoder = encoder(3, channels, 1, groups)
        self.query_encoder = encoder(channels, channels, 1, groups)
        self.key_encoder = encoder(channels, channels, 1, groups)
        self.unification = FeatureUnification(channels, kernel, groups, published_order)
        self.aggregation = encoder(2 * channels, channels, 3, groups)
        self.rope = RotaryEmbedding(channels)
        self.query_conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.attention = CrossAttention(channels, heads)

    def weights(
        self, image: UInt8[Tensor, "B 3 H_img W_img"], features: Float[Tensor, "B C H W"], size: tuple[int, int]
    ) -> WindowWeights:
        """Weights from the grid of `features` to `size`; apply them to these features or to maps of the same grid.

        Raises:
            ValueError: an image of another aspect, a size without pixels, or less than 2 x 2 cells.
        """
        return self.guided_weights(normalize_image(image, (features.shape[2], features.shape[3])), features, size)

    def guided_weights(
        self, guidance: Float[Tensor, "B 3 H_img W_img"], features: Float[Tensor, "B C H W"], size: tuple[int, int]
    ) -> WindowWeights:
        """The same for a normalized image."""
        check_size(size)
        if min(features.shape[2:]) < 2:
            rows, columns = features.shape[2:]
            raise ValueError(f"features of {rows} x {columns} cells: AnyUp needs 2 x 2 and more")
        window = ratio_window((features.shape[2], features.shape[3]), size, self.window_ratio).to(features.device)
        queries, keys = self._queries_and_keys(guidance, features, size)
        return WindowWeights(window, self.attention.window_weights(queries, keys, window))

    def _queries_and_keys(
        self, guidance: Float[Tensor, "B 3 H_img W_img"], features: Float[Tensor, "B C H W"], size: tuple[int, int]
    ) -> tuple[Float[Tensor, "B D H_px W_px"], Float[Tensor, "B D H W"]]:
        encoded = self.rope(self.image_encoder(channels_last(guidance, self.query_conv.weight.dtype)))
        keys = pool(self.key_encoder(encoded), (features.shape[2], features.shape[3]))
        keys = self.aggregation(torch.cat([keys, self.unification(features)], dim=1))
        return self.query_conv(pool(self.query_encoder(encoded), size)), keys


def ratio_window(grid: tuple[int, int], size: tuple[int, int], ratio: float) -> Window:
    """The cells within `ratio` of the image around each pixel: floor((c - ratio) h) <= row < ceil((c + ratio) h).

    Args:
        grid: rows and columns of cells.
        size: rows and columns of pixels, whose centers c are 0 to 1.
        ratio: 0: all cells.
    """
    (rows, valid_rows), (columns, valid_columns) = (
        _ratio_axis(cells, pixels, ratio) for cells, pixels in zip(grid, size, strict=True)
    )
    return Window(rows, columns, grid, valid_rows, valid_columns)


def _ratio_axis(cells: int, pixels: int, ratio: float) -> tuple[Tensor, Tensor]:
    center = ((torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels) if ratio else torch.full((pixels,), 0.5)
    reach = ratio or math.inf
    first = ((center - reach).clamp(0, 1) * cells).floor().long()
    end = ((center + reach).clamp(0, 1) * cells).ceil().long()
    index = first[:, None] + torch.arange(int((end - first).max()))
    return index.clamp(max=cells - 1), index < end[:, None]
