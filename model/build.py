"""From settings to a DenseAV: the one place where a name picks a builder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from configs.check import check_choices
from configs.schema import ModelConfig
from model.denseav import DenseAV, InputSpec, SimilarityConfig
from model.encoders.image import TimmImageEncoder
from model.encoders.log_mel_vit import MelEncoder
from model.encoders.lora import LoraSettings
from model.encoders.pretrained import RANDOM
from model.encoders.speech import SpeechTransformerEncoder
from model.encoders.tiny import TinyAudioEncoder, TinyImageEncoder
from model.projection import AudioLinear, AudioSelfAttentionPool, ImageLinear
from model.similarity.global_pooling import GLOBAL_AGGREGATIONS
from model.similarity.simpool import SimPool

AUDIO_PROJECTIONS: dict[str, Callable[..., nn.Module]] = {
    "conv_attention": AudioSelfAttentionPool,
    "linear": AudioLinear,
}


def build_denseav(config: ModelConfig, inputs: InputSpec) -> DenseAV:
    """A DenseAV with fresh weights, drawn from torch's generator.

    Raises:
        ValueError: an unknown name, or channels that the heads do not divide.
    """
    if config.num_heads < 1 or config.embed_dim % config.num_heads:
        raise ValueError(f"model.num_heads={config.num_heads} must divide model.embed_dim={config.embed_dim}")
    check_choices(config, "model.")
    if config.audio_projection == "conv_attention" and config.embed_dim % 6:
        raise ValueError(
            f"model.embed_dim={config.embed_dim}: conv_attention has 6 attention heads, so give a multiple of 6"
        )
    if config.projection_init_gain != 1 and config.audio_projection != "linear":
        raise ValueError(
            f"model.projection_init_gain={config.projection_init_gain} is for model.audio_projection=linear, here it is {config.audio_projection}"
        )
    image_encoder, audio_encoder = _image_encoder(config, inputs), _audio_encoder(config, inputs)
    audio_projection = AUDIO_PROJECTIONS[config.audio_projection]
    gain = {} if config.projection_init_gain == 1 else {"gain": config.projection_init_gain}
    scores = SimilarityConfig(
        config.similarity_aggregation, config.head_aggregation, config.clamp_nonneg, config.add_cls_similarity
    )
    if config.num_heads > 1 and config.similarity_aggregation in GLOBAL_AGGREGATIONS:
        raise ValueError(
            f"model.num_heads={config.num_heads}: model.similarity_aggregation={config.similarity_aggregation} compares whole vectors; allowed here is 1"
        )
    if config.add_cls_similarity and config.similarity_aggregation in GLOBAL_AGGREGATIONS:
        raise ValueError(
            f"model.add_cls_similarity=true adds to every cell, and model.similarity_aggregation={config.similarity_aggregation} has none; allowed here is false"
        )
    simpool = config.similarity_aggregation == "simpool"
    if scores.needs_cls and not simpool and not (image_encoder.has_cls and audio_projection is AudioSelfAttentionPool):
        wanted = f"model.add_cls_similarity={str(config.add_cls_similarity).lower()} with model.similarity_aggregation={config.similarity_aggregation}"
        raise ValueError(
            f"{wanted} compares class tokens: give an image encoder that has one (not tiny) and model.audio_projection=conv_attention"
        )
    return DenseAV(
        image_encoder,
        audio_encoder,
        ImageLinear(image_encoder.channels, config.embed_dim, scores.needs_cls and not simpool, **gain),
        audio_projection(
            audio_encoder.channels,
            config.embed_dim,
            **(gain if audio_projection is AudioLinear else {"has_cls": audio_encoder.has_cls}),
        ),
        num_heads=config.num_heads,
        image_pool_size=config.image_pool_size,
        inputs=inputs,
        scores=scores,
        image_pooling=SimPool(config.embed_dim) if simpool else None,
        audio_pooling=SimPool(config.embed_dim) if simpool else None,
        bias=config.logit_bias_init if config.logit_bias else None,
    )


def check_input_sizes(model: DenseAV) -> None:
    """Encode one empty pair, so that sizes which leave a layer without a cell or a step are met before training. Leaves the model in evaluation mode.

    Raises:
        ValueError: the model cannot take inputs of the sizes it was built for.
    """
    inputs, parameter = model.eval().inputs, next(model.parameters())
    samples = round(inputs.clip_duration_s * inputs.sample_rate_hz)
    try:
        with torch.no_grad():  # not inference_mode: what an encoder keeps of it (positions, say) must serve in training
            cells = model.encode_image(
                torch.zeros(1, 3, inputs.image_size_px, inputs.image_size_px, device=parameter.device)
            ).dense.shape[-2:]
            model.encode_audio(
                torch.zeros(1, samples, device=parameter.device),
                torch.ones(1, samples, dtype=torch.bool, device=parameter.device),
            )
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        sizes = f"stream.image_size_px={inputs.image_size_px}, stream.clip_duration_s={inputs.clip_duration_s}"
        raise ValueError(
            f"{sizes}: too small for the encoders, projections and pooling of this model ({str(error).splitlines()[0]})"
        ) from None
    if min(cells) < model.image_pool_size:
        raise ValueError(
            f"model.image_pool_size={model.image_pool_size}: a picture of stream.image_size_px={inputs.image_size_px} has {cells[0]} x {cells[1]} cells"
        )


def build_random_init(config: ModelConfig, inputs: InputSpec, seed: int) -> DenseAV:
    """The same architecture with random weights throughout, drawn from `seed`, whatever its encoders began with: the floor of every benchmark."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_denseav(dataclasses.replace(config, image_weights=RANDOM, audio_weights=RANDOM), inputs)


def _image_encoder(config: ModelConfig, inputs: InputSpec) -> nn.Module:
    if config.image_encoder == "tiny":
        if config.lora_rank:
            raise ValueError(
                f"model.lora_rank={config.lora_rank} adapts a timm image encoder, and model.image_encoder is tiny; allowed here is 0"
            )
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
        return MelEncoder(
            name,
            samples,
            inputs.sample_rate_hz,
            config.audio_weights,
            config.norm_eps or None,
            config.gradient_checkpointing,
        )
    return SpeechTransformerEncoder(
        config.audio_encoder,
        inputs.sample_rate_hz,
        config.audio_weights,
        config.norm_eps or None,
        config.audio_conv_bias,
        config.gradient_checkpointing,
    )
