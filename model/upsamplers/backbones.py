"""Frozen encoders of published FeatUp models, from timm: a normalized image to features on the grid of its cells.

Position embeddings of images other than 224 x 224 are resampled by timm (bicubic, antialiased).
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from model.encoders.pretrained import PRETRAINED, RANDOM, mismatched_weights_error, read_weights, summarize_error
from model.encoders.timm_vit import create_vit
from model.published_upsamplers import FeatUpBackbone

SIZE_PX = 224
_SETTING, _WEIGHTS = "backbone_encoder=", "backbone_weights="


class TokenGrid(nn.Module):
    """Patch tokens of a timm vision transformer as a feature map.

    Args:
        vit: the transformer; with a head, its projection is applied to each token.
        value_path: replace the last block by its value and output projections, as MaskCLIP does.
    """

    def __init__(self, vit: nn.Module, value_path: bool = False) -> None:
        super().__init__()
        self.vit: Any = vit
        self.value_path = value_path

    def forward(self, image: Float[Tensor, "B 3 H_img W_img"]) -> Float[Tensor, "B C H W"]:
        """Features of a normalized image.

        Raises:
            ValueError: the image is not a whole number of patches.
        """
        height, width = _check_whole_cells(image, self.vit.patch_embed.patch_size[0])
        tokens = self._values(image) if self.value_path else self.vit.forward_features(image)
        tokens = self.vit.head(tokens[:, self.vit.num_prefix_tokens :])
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    def _values(self, image: Float[Tensor, "B 3 H_img W_img"]) -> Float[Tensor, "B N C"]:
        tokens = self.vit.norm_pre(self.vit.patch_drop(self.vit._pos_embed(self.vit.patch_embed(image))))
        *blocks, last = self.vit.blocks
        for block in blocks:
            tokens = block(tokens)
        weight, bias = (part.chunk(3)[2] for part in (last.attn.qkv.weight, last.attn.qkv.bias))
        return self.vit.norm(last.attn.proj(nn.functional.linear(last.norm1(tokens), weight, bias)))


class CellGrid(nn.Module):
    """The last stage of a timm ResNet."""

    def __init__(self, resnet: nn.Module, stride: int) -> None:
        super().__init__()
        self.resnet: Any = resnet
        self.stride = stride

    def forward(self, image: Float[Tensor, "B 3 H_img W_img"]) -> Float[Tensor, "B C H W"]:
        """Features of a normalized image.

        Raises:
            ValueError: the image is not a whole number of cells.
        """
        _check_whole_cells(image, self.stride)
        return self.resnet.forward_features(image)


def build_backbone(backbone: FeatUpBackbone, weights: str = PRETRAINED) -> nn.Module:
    """The encoder of a published FeatUp model, without its normalization.

    Args:
        weights: `pretrained` (timm's cache, or the network), `random`, or a file.

    Raises:
        ValueError: weights that are missing or do not fit.
    """
    if backbone.output == "cells":
        return CellGrid(_create_resnet(backbone.timm_name, weights), backbone.stride)
    projection = 0 if backbone.output == "tokens" else backbone.channels
    size = (SIZE_PX, SIZE_PX)
    vit = create_vit(backbone.timm_name, size, 3, weights, _SETTING, num_classes=projection)
    return TokenGrid(vit, value_path=backbone.output == "values")


def _create_resnet(name: str, weights: str) -> nn.Module:
    import timm

    overlay: dict[str, Any] = {}
    if weights not in (PRETRAINED, RANDOM):
        state = read_weights(weights, f"{_WEIGHTS}{weights}", ignore=("fc.",))
        overlay = {"state_dict": state, "source": "", "classifier": None}
    try:
        return timm.create_model(name, pretrained=weights != RANDOM, pretrained_cfg_overlay=overlay, num_classes=0)
    except Exception as error:  # the errors of the hub, of the network and of load_state_dict have no common base
        if overlay:
            raise mismatched_weights_error(f"{_WEIGHTS}{weights}", error) from None
        raise ValueError(
            f"{_SETTING}{name}: its pre-trained weights are not in timm's cache and cannot be fetched "
            f"({summarize_error(error)}); give a file as {_WEIGHTS}, or {_WEIGHTS}{RANDOM}"
        ) from None


def _check_whole_cells(image: Float[Tensor, "B 3 H_img W_img"], stride: int) -> tuple[int, int]:
    height, width = image.shape[2:]
    if height % stride or width % stride:
        raise ValueError(
            f"image of {height} x {width} px: allowed are multiples of {stride} px, the stride of the encoder"
        )
    return height // stride, width // stride
