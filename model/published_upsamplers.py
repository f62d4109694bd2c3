"""Names, files and backbones of published upsamplers."""

from typing import Literal, NamedTuple

_FEATUP_URL = "https://marhamilresearch4.blob.core.windows.net/feature-upsampling-public/pretrained"
_ANYUP_URL = "https://github.com/wimmerth/anyup/releases/download"

ANYUP = {
    "anyup": f"{_ANYUP_URL}/checkpoint/anyup_paper.pth",
    "anyup_multi_backbone": f"{_ANYUP_URL}/checkpoint_v2/anyup_multi_backbone.pth",
}


class FeatUpBackbone(NamedTuple):
    """The encoder of a published FeatUp model.

    Attributes:
        timm_name: of the encoder with the weights that FeatUp used.
        channels: C of the features.
        stride: pixels of a cell.
        output: `tokens`: patch tokens after the last norm; `projected`: these with the projection of CLIP; `values`:
            the same with the value path alone in the last block; `cells`: the last stage of a ResNet.
        has_norm: whether the variant with a normalization of the features is published too.
    """

    timm_name: str
    channels: int
    stride: int
    output: Literal["tokens", "projected", "values", "cells"]
    has_norm: bool = True


FEATUP = {
    "dino16": FeatUpBackbone("vit_small_patch16_224.dino", 384, 16, "tokens"),
    "vit": FeatUpBackbone("vit_small_patch16_224.augreg_in21k_ft_in1k", 384, 16, "tokens"),
    "dinov2": FeatUpBackbone("vit_small_patch14_dinov2.lvd142m", 384, 14, "tokens"),
    "clip": FeatUpBackbone("vit_base_patch16_clip_quickgelu_224.openai", 512, 16, "projected"),
    "maskclip": FeatUpBackbone("vit_base_patch16_clip_quickgelu_224.openai", 512, 16, "values", has_norm=False),
    "resnet50": FeatUpBackbone("resnet50.tv_in1k", 2048, 32, "cells"),
}


def featup_backbone(name: str, use_norm: bool) -> FeatUpBackbone:
    """The backbone of a name.

    Raises:
        ValueError: no such name, or no such variant is published.
    """
    if name not in FEATUP:
        raise ValueError(f"FeatUp model {name!r}: allowed is {', '.join(FEATUP)}")
    backbone = FEATUP[name]
    if use_norm and not backbone.has_norm:
        raise ValueError(f"{name} is published without normalization only: use_norm=True, allowed is use_norm=False")
    return backbone


def featup_url(name: str, use_norm: bool) -> str:
    """Where the checkpoint of a FeatUp model is published."""
    return f"{_FEATUP_URL}/{'' if use_norm else 'no_norm/'}{name}_jbu_stack_cocostuff.ckpt"
