"""Converter of the published DenseAV checkpoints: sizes and encoders come from names and shapes of the weights.

Both layouts of names are read: an adapted layer's weight is `qkv.weight` or `qkv.base_layer.weight`, the positional
convolution's `weight_g`, `weight_v` or `parametrizations.weight.original0`, `original1`. Source:
tests/golden/README.md, released_checkpoint_keys.json.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema import ModelConfig
from model.build import build_denseav
from model.convert.converter import Converted
from model.denseav import InputSpec
from model.projection import ImageLinear

# Names of the setting that holds K in stored settings.
_HEADS_KEYS = ("sim_agg_heads", "num_heads", "heads")
# Stored name of a setting -> field of ModelConfig.
_SETTINGS = {
    "sim_agg_type": "similarity_aggregation",
    "head_agg": "head_aggregation",
    "nonneg_sim": "clamp_nonneg",
    "sim_use_cls": "add_cls_similarity",
    "image_pool_width": "image_pool_size",
}
_CLIP_SAMPLES, _SAMPLE_RATE_HZ, _IMAGE_PX = 164_200, 16_000, 224
# (channels, patch side) of the image encoder -> timm's name; channels of the audio encoder -> model.audio_encoder.
_IMAGE_ENCODERS = {
    (384, 8): "vit_small_patch8_224.dino",
    (384, 16): "vit_small_patch16_224.dino",
    (768, 8): "vit_base_patch8_224.dino",
}
_AUDIO_ENCODERS = {1024: "hubert_large_ls960", 768: "hubert_base"}
# Not used: the vector that masks spectra in HuBERT's pretraining, and counters of batch normalization.
_IGNORED_KEYS = re.compile(r"audio_model\.model\.masked_spec_embed|.*\.num_batches_tracked")
# Prefix of a name inside the projection -> inside the reference's "aligner"; the class vector is `audio_cls` outside of
# it.
IMAGE_PROJECTION_NAMES = {"norm.": "norm.norm.", "patch_proj.": "layer.", "cls_proj.": "cls_layer."}
AUDIO_PROJECTION_NAMES = {
    "norm.": "mod_list.1.norm.",
    "conv1.": "mod_list.2.layer.",
    "cls_proj.": "mod_list.2.cls_layer.",
    "conv2.": "mod_list.3.layer.",
    "block.self_attn.in_proj_": "mod_list.4.block.attn.qkv.",
    "block.self_attn.out_proj.": "mod_list.4.block.attn.proj.",
    "block.linear1.": "mod_list.4.block.mlp.fc1.",
    "block.linear2.": "mod_list.4.block.mlp.fc2.",
    "block.norm1.": "mod_list.4.block.norm1.",
    "block.norm2.": "mod_list.4.block.norm2.",
}
# Pattern of a stored name -> replacement.
_RENAMED = (
    (r"^image_model\.(?:base_model\.model\.)?model\.", "image_encoder.model."),
    (r"^audio_model\.model\.feature_extractor\.", "audio_encoder.model.feature_extractor."),
    (r"^audio_model\.model\.feature_projection\.", "audio_encoder.model.encoder.feature_projection."),
    (r"^audio_model\.model\.encoder\.", "audio_encoder.model.encoder.transformer."),
    (r"\.conv\.weight_g$", ".conv.parametrizations.weight.original0"),
    (r"\.conv\.weight_v$", ".conv.parametrizations.weight.original1"),
    (r"^audio_cls$", "audio_projection.cls_token"),
    (r"^sim_cal\.w$", "log_scale"),
    *(
        (f"^image_aligner\\.{re.escape(theirs)}", f"image_projection.{ours}")
        for ours, theirs in IMAGE_PROJECTION_NAMES.items()
    ),
    *(
        (f"^audio_aligner\\.{re.escape(theirs)}", f"audio_projection.{ours}")
        for ours, theirs in AUDIO_PROJECTION_NAMES.items()
    ),
)


def recognizes(stored: Mapping[str, Tensor], _settings: Mapping[str, Any]) -> bool:
    """Whether a state dict has the names of a published DenseAV checkpoint."""
    return any(name.startswith(("image_aligner.", "audio_aligner.")) for name in stored)


def convert(stored: Mapping[str, Tensor], settings: Mapping[str, Any], num_heads: int) -> Converted:
    """Build the model and load the weights; see Converter."""
    if settings.get("norm_vectors"):
        raise ValueError("the stored settings have norm_vectors: true, features of length 1, which is not supported")
    heads = num_heads or next((settings[key] for key in _HEADS_KEYS if isinstance(settings.get(key), int)), 0)
    if not heads:
        raise ValueError(
            "no stored settings (hyper_parameters, or config.json in the same folder) with the number of heads; "
            "give num_heads=1 (sound, language) or num_heads=2 (sound_and_language)"
        )
    scoring = {ours: settings[theirs] for theirs, ours in _SETTINGS.items() if theirs in settings}
    config = dataclasses.replace(infer_model_config(stored, heads), **scoring)
    model = build_denseav(config, InputSpec(_IMAGE_PX, _CLIP_SAMPLES / _SAMPLE_RATE_HZ, _SAMPLE_RATE_HZ)).eval()
    state, unused, missing = convert_state_dict(stored, model.state_dict())
    model.load_state_dict({name: tensor.to(torch.float32) for name, tensor in state.items()}, strict=False)
    return Converted(model, config, list(state), unused, missing)


def infer_model_config(stored: Mapping[str, Tensor], heads: int) -> ModelConfig:
    """Infer the settings of the model from stored weights.

    Args:
        stored: weights under the reference's names; only names and shapes are read.
        heads: K, which the weights do not determine.

    Raises:
        ValueError: not the weights of a DenseAV, or of encoders that are not supported.
    """
    shapes = {_rename_key(name): tuple(tensor.shape) for name, tensor in stored.items()}
    try:
        channels, _, patch_px, _ = shapes["image_encoder.model.patch_embed.proj.weight"]
        audio_channels = shapes["audio_encoder.model.encoder.feature_projection.projection.weight"][0]
        shared = shapes["image_projection.patch_proj.weight"][0]
    except KeyError as error:
        raise ValueError(f"not the weights of a DenseAV: {error.args[0]} is missing") from None
    if (channels, patch_px) not in _IMAGE_ENCODERS or audio_channels not in _AUDIO_ENCODERS:
        raise ValueError(
            f"encoders of ({channels}, {patch_px}) image channels and patch pixels and {audio_channels} audio channels "
            f"are not supported: allowed are {sorted(_IMAGE_ENCODERS)} and {sorted(_AUDIO_ENCODERS)}"
        )
    ranks = [shape[0] for name, shape in shapes.items() if name.endswith("lora_A.default.weight")]
    return ModelConfig(
        image_encoder=_IMAGE_ENCODERS[channels, patch_px],
        audio_encoder=_AUDIO_ENCODERS[audio_channels],
        image_weights="random",
        audio_weights="random",
        lora_rank=ranks[0] if ranks else 0,
        norm_eps=1e-4,
        audio_conv_bias="audio_encoder.model.feature_extractor.conv_layers.0.conv.bias" in shapes,
        embed_dim=shared,
        num_heads=heads,
    )


def convert_state_dict(
    stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Rename stored weights.

    Args:
        stored: weights under the reference's names.
        expected: state dict of the model, or a part of it.

    Returns:
        The renamed weights for `load_state_dict`; stored names without a counterpart; expected names that are not
        stored.

    Raises:
        ValueError: a weight has another size.
    """
    state: dict[str, Tensor] = {}
    unused = []
    for name, tensor in stored.items():
        ours = _rename_key(name)
        if ours not in expected and re.sub(r"\.(weight|bias)$", r".base_layer.\1", ours) in expected:
            ours = re.sub(r"\.(weight|bias)$", r".base_layer.\1", ours)
        if ours not in expected:
            unused += [] if _IGNORED_KEYS.fullmatch(name) else [name]
        elif tensor.numel() != expected[ours].numel():
            raise ValueError(f"{name} has the shape {list(tensor.shape)}, expected {list(expected[ours].shape)}")
        else:  # the reference's temporal convolutions have a frequency axis of size 1, its scale an axis of size 1
            state[ours] = tensor.reshape(expected[ours].shape)
    return state, sorted(unused), sorted(expected.keys() - state.keys())


def convert_projection(stored: Mapping[str, Tensor], projection: nn.Module) -> dict[str, Tensor]:
    """Rename the weights of one projection, stored without the prefix of its "aligner".

    Args:
        stored: weights under the reference's names; the class vector may be among them as `audio_cls`.
        projection: an ImageLinear or AudioSelfAttentionPool.

    Returns:
        State dict of the projection; a class vector that is not stored keeps its value.

    Raises:
        ValueError: a weight is missing.
    """
    branch = "image" if isinstance(projection, ImageLinear) else "audio"
    named = {name if name == "audio_cls" else f"{branch}_aligner.{name}": tensor for name, tensor in stored.items()}
    own = {f"{branch}_projection.{name}": tensor for name, tensor in projection.state_dict().items()}
    state, _, missing = convert_state_dict(named, own)
    if lost := [name for name in missing if name != "audio_projection.cls_token"]:
        raise ValueError(f"the stored projection has no {', '.join(lost)}")
    return {name.removeprefix(f"{branch}_projection."): tensor for name, tensor in (own | state).items()}


def _rename_key(name: str) -> str:
    for theirs, ours in _RENAMED:
        name = re.sub(theirs, ours, name)
    return name
