"""From settings to a DenseAV: the one place where a name picks a builder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from configs.command import UsageError
from configs.schema import ModelConfig
from model.encoders.audio import SpeechTransformerEncoder
from model.encoders.image import TimmImageEncoder
from model.encoders.lora import LoraSettings
from model.encoders.mel import MelEncoder
from model.encoders.tiny import TinyAudioEncoder, TinyImageEncoder
from model.encoders.weights import RANDOM
from model.grounding.denseav import DenseAV, InputSpec, ScoreSettings
from model.grounding.global_scores import GLOBAL_AGGREGATIONS
from model.grounding.pooling import SimPool
from model.grounding.projection import AudioLinear, AudioSelfAttentionPool, ImageLinear
from model.grounding.similarity import AGGREGATIONS, HEAD_AGGREGATIONS

IMAGE_PROJECTIONS: dict[str, Callable[..., nn.Module]] = {"image_linear": ImageLinear}
AUDIO_PROJECTIONS: dict[str, Callable[..., nn.Module]] = {"audio_sa_3_3_pool_2": AudioSelfAttentionPool, "audio_linear": AudioLinear}


def build_denseav(config: ModelConfig, inputs: InputSpec) -> DenseAV:
    """A DenseAV with fresh weights, drawn from torch's generator.

    Raises:
        UsageError: an unknown name, or channels that the heads do not divide.
    """
    if config.heads < 1 or config.channels % config.heads:
        raise UsageError(f"model.heads={config.heads} must divide model.channels={config.channels}")
    _choose("model.aggregation", config.aggregation, dict.fromkeys((*AGGREGATIONS, *GLOBAL_AGGREGATIONS)))
    _choose("model.head_aggregation", config.head_aggregation, HEAD_AGGREGATIONS)
    if config.audio_projection == "audio_sa_3_3_pool_2" and config.channels % 6:
        raise UsageError(f"model.channels={config.channels}: audio_sa_3_3_pool_2 has 6 attention heads, so give a multiple of 6")
    if config.projection_gain != 1 and config.audio_projection != "audio_linear":
        raise UsageError(f"model.projection_gain={config.projection_gain} is for model.audio_projection=audio_linear, here it is {config.audio_projection}")
    image_encoder, audio_encoder = _image_encoder(config, inputs), _audio_encoder(config, inputs)
    image_projection = _choose("model.image_projection", config.image_projection, IMAGE_PROJECTIONS)
    audio_projection = _choose("model.audio_projection", config.audio_projection, AUDIO_PROJECTIONS)
    gain = {} if config.projection_gain == 1 else {"gain": config.projection_gain}
    scores = ScoreSettings(config.aggregation, config.head_aggregation, config.nonneg, config.use_cls)
    if config.heads > 1 and config.aggregation in GLOBAL_AGGREGATIONS:
        raise UsageError(f"model.heads={config.heads}: model.aggregation={config.aggregation} compares whole vectors; allowed here is 1")
    if config.use_cls and config.aggregation in GLOBAL_AGGREGATIONS:
        raise UsageError(f"model.use_cls=true adds to every cell, and model.aggregation={config.aggregation} has none; allowed here is false")
    simpool = config.aggregation == "simpool"
    if scores.compares_cls and not simpool and not (image_encoder.has_cls and audio_projection is AudioSelfAttentionPool):
        wanted = f"model.use_cls={str(config.use_cls).lower()} with model.aggregation={config.aggregation}"
        raise UsageError(f"{wanted} compares class tokens: give an image encoder that has one (not tiny) and model.audio_projection=audio_sa_3_3_pool_2")
    return DenseAV(
        image_encoder,
        audio_encoder,
        image_projection(image_encoder.channels, config.channels, scores.compares_cls and not simpool, **gain),
        audio_projection(audio_encoder.channels, config.channels, **(gain if audio_projection is AudioLinear else {"has_cls": audio_encoder.has_cls})),
        heads=config.heads,
        image_pool=config.image_pool,
        inputs=inputs,
        scores=scores,
        image_pooling=SimPool(config.channels) if simpool else None,
        audio_pooling=SimPool(config.channels) if simpool else None,
        bias=config.logit_bias_init if config.logit_bias else None,
    )


def refuse_unfit_inputs(model: DenseAV) -> None:
    """Encode one empty pair, so that sizes which leave a layer without a cell or a step are met before training. Leaves the model in evaluation mode.

    Raises:
        UsageError: the model cannot take inputs of the sizes it was built for.
    """
    inputs, parameter = model.eval().inputs, next(model.parameters())
    samples = round(inputs.clip_duration_s * inputs.sample_rate_hz)
    try:
        with torch.no_grad():  # not inference_mode: what an encoder keeps of it (positions, say) must serve in training
            cells = model.encode_image(torch.zeros(1, 3, inputs.image_size_px, inputs.image_size_px, device=parameter.device)).dense.shape[-2:]
            model.encode_audio(torch.zeros(1, samples, device=parameter.device), torch.ones(1, samples, dtype=torch.bool, device=parameter.device))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        sizes = f"stream.image_size_px={inputs.image_size_px}, stream.clip_duration_s={inputs.clip_duration_s}"
        raise UsageError(f"{sizes}: too small for the encoders, projections and pooling of this model ({str(error).splitlines()[0]})") from None
    if min(cells) < model.image_pool:
        raise UsageError(f"model.image_pool={model.image_pool}: a picture of stream.image_size_px={inputs.image_size_px} has {cells[0]} x {cells[1]} cells")


def build_untrained(config: ModelConfig, inputs: InputSpec, seed: int) -> DenseAV:
    """The same architecture with random weights throughout, drawn from `seed`, whatever its encoders began with: the floor of every benchmark."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_denseav(dataclasses.replace(config, image_weights=RANDOM, audio_weights=RANDOM), inputs)


def _image_encoder(config: ModelConfig, inputs: InputSpec) -> nn.Module:
    if config.image_encoder == "tiny":
        if config.lora_rank:
            raise UsageError(f"model.lora_rank={config.lora_rank} adapts a timm image encoder, and model.image_encoder is tiny; allowed here is 0")
        return TinyImageEncoder()
    return TimmImageEncoder(
        config.image_encoder,
        inputs.image_size_px,
        config.image_weights,
        LoraSettings(config.lora_rank, config.lora_alpha, config.lora_dropout) if config.lora_rank else None,
        config.norm_eps or None,
        config.gradient_checkpointing,
    )


def _audio_encoder(config: ModelConfig, inputs: InputSpec) -> nn.Module:
    if config.audio_encoder == "tiny":
        return TinyAudioEncoder(sample_rate_hz=inputs.sample_rate_hz)
    if config.audio_encoder.startswith("mel:"):
        samples = round(inputs.clip_duration_s * inputs.sample_rate_hz)
        name = config.audio_encoder.removeprefix("mel:")
        return MelEncoder(name, samples, inputs.sample_rate_hz, config.audio_weights, config.norm_eps or None, config.gradient_checkpointing)
    return SpeechTransformerEncoder(
        config.audio_encoder, inputs.sample_rate_hz, config.audio_weights, config.norm_eps or None, config.audio_conv_bias, config.gradient_checkpointing
    )


def _choose(key: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise UsageError(f"{key}={name}: allowed are {', '.join(table)}")
    return table[name]
