"""JAFAR: weights from the image and the features of one encoder, over all low-resolution cells.

Source: reference 4.2.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from model.dtypes import upcast_half
from model.upsamplers.guidance import channels_last, check_size, normalize_image
from model.upsamplers.guide_blocks import GROUPS, CrossAttention, RotaryEmbedding, encoder, pool

PIXELS_PER_BLOCK = 4096


@dataclass(frozen=True)
class GlobalWeights:
    """Attention over all cells; computed block by block of pixels each time it is applied, because it is large.

    Attributes:
        queries, keys: channels last, split into heads; their inner products are the logits.
    """

    queries: Float[Tensor, "B K H_px W_px D"]
    keys: Float[Tensor, "B K H W D"]

    def apply(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H_px W_px"]:
        """Upsample features or maps: the weights are the same for all channels."""
        cells = features.flatten(2).transpose(1, 2)
        keys = self.keys.flatten(2, 3).transpose(2, 3)
        blocks = self.queries.flatten(2, 3).split(PIXELS_PER_BLOCK, dim=2)
        cells, keys = upcast_half(cells), upcast_half(keys)
        mixed = [(upcast_half(block) @ keys).softmax(dim=-1).mean(dim=1).to(cells.dtype) @ cells for block in blocks]
        return torch.cat(mixed, dim=1).to(features.dtype).transpose(1, 2).unflatten(2, tuple(self.queries.shape[2:4]))

    def apply_maps(self, maps: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N H_px W_px"]:
        """Upsample maps."""
        return self.apply(maps)


class Jafar(nn.Module):
    """The network that computes weights.

    Args:
        feature_channels: of the encoder.
        channels: D, of queries and keys.
        heads: of the attention.
        groups: of the normalizations.
    """

    reads_image: ClassVar[bool] = True
    reads_features: ClassVar[bool] = True

    def __init__(self, feature_channels: int, channels: int = 128, heads: int = 4, groups: int = GROUPS) -> None:
        super().__init__()
        self.groups, self.feature_channels = groups, feature_channels
        self.image_encoder = encoder(3, channels, 1, groups)
        self.query_encoder = encoder(channels, channels, 1, groups)
        self.key_encoder = encoder(channels, channels, 1, groups)
        self.feature_encoder = encoder(feature_channels, channels, 1, groups)
        self.gamma, self.beta = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(2))
        self.rope = RotaryEmbedding(channels)
        self.query_conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.attention = CrossAttention(channels, heads)

    def weights(
        self, image: UInt8[Tensor, "B 3 H_img W_img"], features: Float[Tensor, "B C H W"], size: tuple[int, int]
    ) -> GlobalWeights:
        """Weights from the grid of `features` to `size`; apply them to these features or to maps of the same grid.

        Raises:
            ValueError: an image of another aspect, a size without pixels, or features of another encoder.
        """
        return self.guided_weights(normalize_image(image, (features.shape[2], features.shape[3])), features, size)

    def guided_weights(
        self, guidance: Float[Tensor, "B 3 H_img W_img"], features: Float[Tensor, "B C H W"], size: tuple[int, int]
    ) -> GlobalWeights:
        """The same for a normalized image."""
        check_size(size)
        if features.shape[1] != self.feature_channels:
            raise ValueError(
                f"features of {features.shape[1]} channels, weights of an encoder with {self.feature_channels}"
            )
        encoded = self.rope(self.image_encoder(channels_last(guidance, self.query_conv.weight.dtype)))
        keys = self._normalize(pool(self.key_encoder(encoded), (features.shape[2], features.shape[3])))
        feature = self.feature_encoder(functional.normalize(upcast_half(features), dim=1).to(encoded.dtype))
        keys = self.gamma(feature) * keys + self.beta(feature)
        queries = self.query_conv(self._normalize(pool(self.query_encoder(encoded), size)))
        by_head = (
            part.unflatten(3, (self.attention.heads, -1)).permute(0, 3, 1, 2, 4)
            for part in self.attention.project(queries, keys)
        )
        return GlobalWeights(*by_head)

    def _normalize(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return functional.group_norm(features, self.groups)
