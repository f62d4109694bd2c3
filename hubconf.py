"""Entry points of torch.hub: `torch.hub.load(REPOSITORY, "sound_and_language")`, or `source="local"` with a folder.

Models of sound return a `denseav.Localizer`; keyword arguments are those of `denseav.load`. Published FeatUp models,
such as `torch.hub.load(REPOSITORY, "dino16", use_norm=True)`, return a `model.upsamplers.featup.UpsampledBackbone`: an
encoder with its upsampler; keyword arguments are those of `model.upsamplers.featup.load_featup`.
"""

from typing import Any as _Any

import denseav
from model.upsamplers.featup import UpsampledBackbone as _UpsampledBackbone
from model.upsamplers.featup import load_featup as _load_featup

dependencies = [
    "PIL",
    "av",
    "huggingface_hub",
    "jaxtyping",
    "jinja2",
    "numpy",
    "omegaconf",
    "peft",
    "safetensors",
    "soundfile",
    "timm",
    "torch",
    "torchaudio",
    "torchvision",
    "tqdm",
]


def sound(**options: _Any) -> denseav.Localizer:
    """The published model of sounds (AudioSet), one head; downloaded once, converted on loading."""
    return denseav.load("sound", **options)


def language(**options: _Any) -> denseav.Localizer:
    """The published model of spoken words (Places Audio), one head; downloaded once, converted on loading."""
    return denseav.load("language", **options)


def sound_and_language(**options: _Any) -> denseav.Localizer:
    """The published model of both, one head each; downloaded once, converted on loading."""
    return denseav.load("sound_and_language", **options)


def toy(**options: _Any) -> denseav.Localizer:
    """The small model of this package, trained on the toy world."""
    return denseav.load("toy", **options)


def dino16(pretrained: bool = True, use_norm: bool = True, **options: _Any) -> _UpsampledBackbone:
    """FeatUp on DINO ViT-S/16, 384 channels."""
    return _load_featup("dino16", pretrained, use_norm, **options)


def vit(pretrained: bool = True, use_norm: bool = True, **options: _Any) -> _UpsampledBackbone:
    """FeatUp on ViT-S/16 trained on ImageNet labels, 384 channels."""
    return _load_featup("vit", pretrained, use_norm, **options)


def dinov2(pretrained: bool = True, use_norm: bool = True, **options: _Any) -> _UpsampledBackbone:
    """FeatUp on DINOv2 ViT-S/14, 384 channels."""
    return _load_featup("dinov2", pretrained, use_norm, **options)


def clip(pretrained: bool = True, use_norm: bool = True, **options: _Any) -> _UpsampledBackbone:
    """FeatUp on CLIP ViT-B/16, 512 channels."""
    return _load_featup("clip", pretrained, use_norm, **options)


def maskclip(pretrained: bool = True, use_norm: bool = False, **options: _Any) -> _UpsampledBackbone:
    """FeatUp on MaskCLIP, the value path of CLIP ViT-B/16, 512 channels; use_norm=False only."""
    return _load_featup("maskclip", pretrained, use_norm, **options)


def resnet50(pretrained: bool = True, use_norm: bool = True, **options: _Any) -> _UpsampledBackbone:
    """FeatUp on ResNet-50, 2048 channels, a grid of 32 px."""
    return _load_featup("resnet50", pretrained, use_norm, **options)
