"""From settings to a DenseAV: the one place where a name picks a builder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from configs.command import UsageError
from configs.schema import ModelConfig
from model.encoders.tiny import TinyAudioEncoder, TinyImageEncoder
from model.grounding.denseav import DenseAV, InputSpec, ScoreSettings
from model.grounding.projection import AudioLinear, AudioSelfAttentionPool, ImageLinear
from model.grounding.similarity import AGGREGATIONS, HEAD_AGGREGATIONS

IMAGE_ENCODERS: dict[str, Callable[[InputSpec], nn.Module]] = {
    "tiny": lambda _: TinyImageEncoder(),
}
AUDIO_ENCODERS: dict[str, Callable[[InputSpec], nn.Module]] = {
    "tiny": lambda inputs: TinyAudioEncoder(sample_rate_hz=inputs.sample_rate_hz),
}
IMAGE_PROJECTIONS: dict[str, Callable[..., nn.Module]] = {"image_linear": ImageLinear}
AUDIO_PROJECTIONS: dict[str, Callable[..., nn.Module]] = {"audio_sa_3_3_pool_2": AudioSelfAttentionPool, "audio_linear": AudioLinear}


def build_denseav(config: ModelConfig, inputs: InputSpec) -> DenseAV:
    """A DenseAV with fresh weights, drawn from torch's generator.

    Raises:
        UsageError: an unknown name, or channels that the heads do not divide.
    """
    if config.heads < 1 or config.channels % config.heads:
        raise UsageError(f"model.heads={config.heads} must divide model.channels={config.channels}")
    _choose("model.aggregation", config.aggregation, AGGREGATIONS)
    _choose("model.head_aggregation", config.head_aggregation, HEAD_AGGREGATIONS)
    if config.audio_projection == "audio_sa_3_3_pool_2" and config.channels % 6:
        raise UsageError(f"model.channels={config.channels}: audio_sa_3_3_pool_2 has 6 attention heads, so give a multiple of 6")
    if config.projection_gain != 1 and config.audio_projection != "audio_linear":
        raise UsageError(f"model.projection_gain={config.projection_gain} is for model.audio_projection=audio_linear, here it is {config.audio_projection}")
    image_encoder = _choose("model.image_encoder", config.image_encoder, IMAGE_ENCODERS)(inputs)
    audio_encoder = _choose("model.audio_encoder", config.audio_encoder, AUDIO_ENCODERS)(inputs)
    image_projection = _choose("model.image_projection", config.image_projection, IMAGE_PROJECTIONS)
    audio_projection = _choose("model.audio_projection", config.audio_projection, AUDIO_PROJECTIONS)
    gain = {} if config.projection_gain == 1 else {"gain": config.projection_gain}
    return DenseAV(
        image_encoder,
        audio_encoder,
        image_projection(image_encoder.channels, config.channels, config.use_cls, **gain),
        audio_projection(audio_encoder.channels, config.channels, **gain),
        heads=config.heads,
        image_pool=config.image_pool,
        inputs=inputs,
        scores=ScoreSettings(config.aggregation, config.head_aggregation, config.nonneg, config.use_cls),
    )


def _choose(key: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise UsageError(f"{key}={name}: allowed are {', '.join(table)}")
    return table[name]
