"""Build a DenseAV from its settings."""

import dataclasses

import torch

from configs.schema import ModelConfig
from configs.schema_check import check_choices
from model.denseav import DenseAV
from model.encoders.encoder import Encoder
from model.encoders.pretrained import RANDOM
from model.encoders.registry import build_encoders
from model.inputs import InputSpec
from model.projection import AudioLinear, AudioSelfAttentionPool, ImageLinear
from model.similarity.config import SimilarityConfig
from model.similarity.global_pooling import GLOBAL_AGGREGATIONS
from model.similarity.simpool import SimPool


def build_denseav(config: ModelConfig, inputs: InputSpec) -> DenseAV:
    """Build a DenseAV; random weights are drawn from torch's generator.

    Raises:
        ValueError: settings that do not go together, or that an encoder refuses.
    """
    _check(config)
    image_encoder, audio_encoder = build_encoders(config, inputs)
    similarity = SimilarityConfig(
        config.similarity_aggregation, config.head_aggregation, config.clamp_nonneg, config.add_cls_similarity
    )
    simpool = config.similarity_aggregation == "simpool"
    needs_cls = similarity.needs_cls and not simpool
    if needs_cls and not (image_encoder.has_cls and config.audio_projection == "conv_attention"):
        raise ValueError(
            f"model.add_cls_similarity={str(config.add_cls_similarity).lower()} with "
            f"model.similarity_aggregation={config.similarity_aggregation} compares class tokens: "
            "use an image encoder that has one (not tiny) and model.audio_projection=conv_attention"
        )
    return DenseAV(
        image_encoder,
        audio_encoder,
        ImageLinear(image_encoder.channels, config.embed_dim, needs_cls, config.projection_init_gain),
        _audio_projection(config, audio_encoder),
        num_heads=config.num_heads,
        image_pool_size=config.image_pool_size,
        inputs=inputs,
        similarity_config=similarity,
        image_pooling=SimPool(config.embed_dim) if simpool else None,
        audio_pooling=SimPool(config.embed_dim) if simpool else None,
        bias=config.logit_bias_init if config.logit_bias else None,
    )


def build_random_init(config: ModelConfig, inputs: InputSpec, seed: int) -> DenseAV:
    """Build the architecture with random weights drawn from `seed`, whatever weights its encoders would start from.

    This is the `untrained` baseline of every benchmark.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_denseav(dataclasses.replace(config, image_weights=RANDOM, audio_weights=RANDOM), inputs)


def check_input_sizes(model: DenseAV) -> None:
    """Encode one empty pair, to find sizes that leave a layer without cells or steps before training starts.

    Leaves the model in evaluation mode.

    Raises:
        ValueError: the model cannot take inputs of the sizes it was built for.
    """
    inputs, device = model.eval().inputs, next(model.parameters()).device
    side_px, samples = inputs.image_size_px, inputs.samples
    try:
        with torch.no_grad():  # not inference_mode: encoders may cache what they compute here, and train with it
            image = model.encode_image(torch.zeros(1, 3, side_px, side_px, dtype=torch.uint8, device=device))
            mask = torch.ones(1, samples, dtype=torch.bool, device=device)
            model.encode_audio(torch.zeros(1, samples, device=device), mask)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"stream.image_size_px={side_px}, stream.clip_duration_s={inputs.clip_duration_s}: too small for the "
            f"encoders, projections and pooling of this model ({str(error).splitlines()[0]})"
        ) from None
    rows, columns = image.dense.shape[-2:]
    if min(rows, columns) < model.image_pool_size:
        raise ValueError(
            f"model.image_pool_size={model.image_pool_size}: an image of stream.image_size_px={side_px} "
            f"has {rows} x {columns} cells"
        )


def _audio_projection(config: ModelConfig, encoder: Encoder) -> AudioLinear | AudioSelfAttentionPool:
    if config.audio_projection == "linear":
        return AudioLinear(encoder.channels, config.embed_dim, config.projection_init_gain)
    return AudioSelfAttentionPool(encoder.channels, config.embed_dim, encoder.has_cls)


def _check(config: ModelConfig) -> None:
    check_choices(config, "model.")
    heads, aggregation, gain = config.num_heads, config.similarity_aggregation, config.projection_init_gain
    is_global = aggregation in GLOBAL_AGGREGATIONS
    contradictions = (
        (
            heads < 1 or config.embed_dim % heads,
            f"model.num_heads={heads} must divide model.embed_dim={config.embed_dim}",
        ),
        (
            config.audio_projection == "conv_attention" and config.embed_dim % 6,
            f"model.embed_dim={config.embed_dim}: must be a multiple of 6, the attention heads of conv_attention",
        ),
        (
            gain != 1 and config.audio_projection != "linear",
            f"model.projection_init_gain={gain} is for model.audio_projection=linear, here it is "
            f"{config.audio_projection}",
        ),
        (
            is_global and heads > 1,
            f"model.num_heads={heads}: model.similarity_aggregation={aggregation} compares global vectors; "
            "allowed is 1",
        ),
        (
            is_global and config.add_cls_similarity,
            f"model.add_cls_similarity=true adds to every cell, and model.similarity_aggregation={aggregation} "
            "has none; allowed is false",
        ),
    )
    for applies, message in contradictions:
        if applies:
            raise ValueError(message)
