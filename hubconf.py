"""Entry points of torch.hub: `torch.hub.load(REPOSITORY, "sound_and_language")`, or `source="local"` with a folder.

Each returns a `denseav.Localizer`; keyword arguments are those of `denseav.load`.
"""

from typing import Any as _Any

import denseav

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
