"""Read published FeatUp checkpoints: `{name}_jbu_stack_cocostuff.ckpt`, with and without normalization.

Source: reference 4.1; tests/golden/featup/featup_released_layout.json lists every name.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from model.convert.strict import check_weights
from model.upsamplers.channel_norm import ChannelNorm
from model.upsamplers.jbu import Jbu

UPSAMPLER, NORM = "upsampler.", "model.1."
_CHANNELS_OF = "upsampler.fixup_proj.1.weight"
# The frozen encoder.
_BACKBONE = re.compile(r"model\.(0\.)?model\.")


class FeatUpWeights(NamedTuple):
    """Weights of a FeatUp model.

    Attributes:
        channels: C of the features.
        upsampler: of model.upsamplers.jbu.Jbu.
        norm: of model.upsamplers.channel_norm.ChannelNorm; None: the variant without normalization.
    """

    channels: int
    upsampler: dict[str, Tensor]
    norm: dict[str, Tensor] | None


def is_featup(stored: Mapping[str, Tensor]) -> bool:
    """Whether weights are those of a FeatUp model."""
    return any(name.startswith("upsampler.up") for name in stored)


def featup_weights(stored: Mapping[str, Tensor]) -> FeatUpWeights:
    """Split the weights of a checkpoint; those of the frozen encoder are not used.

    Raises:
        ValueError: missing or unexpected names, or other shapes.
    """
    if _CHANNELS_OF not in stored or stored[_CHANNELS_OF].ndim != 4:
        raise ValueError(f"no {_CHANNELS_OF} [C, C, 1, 1]")
    channels, has_norm = len(stored[_CHANNELS_OF]), any(name.startswith(NORM) for name in stored)
    training = _training_weights(stored, channels)
    expected = _expected(channels, has_norm) | training
    check_weights({k: v for k, v in stored.items() if not _BACKBONE.match(k)}, expected, optional=training)
    norm = _part(stored, NORM) if has_norm else None
    return FeatUpWeights(channels, _part(stored, UPSAMPLER), norm)


def _expected(channels: int, has_norm: bool) -> dict[str, Tensor]:
    with torch.device("meta"):
        expected = {UPSAMPLER + name: value for name, value in Jbu(channels).state_dict().items()}
        norm = {NORM + name: value for name, value in ChannelNorm(channels).state_dict().items()}
    return expected | norm if has_norm else expected


def _training_weights(stored: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """What training stores: the attention downsampler, of any kernel size, and the net of the uncertainty."""
    kernel = stored.get("downsampler.w", torch.empty(16, 16, device="meta")).shape
    shapes = {
        "downsampler.w": (kernel[0], kernel[0]) if kernel else (16, 16),
        "downsampler.b": tuple(kernel),
        "downsampler.attention_net.1.weight": (1, channels),
        "downsampler.attention_net.1.bias": (1,),
        "scale_net.net.weight": (1, channels, 1, 1),
        "scale_net.net.bias": (1,),
    }
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _part(stored: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
