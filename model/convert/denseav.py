"""Weights of the released DenseAV models: from the reference's names to ours, and what of the architecture the names and shapes tell.

Both layouts of their time are read: an adapted layer's own weight is `qkv.weight` or `qkv.base_layer.weight`, the positional convolution's
`weight_g`, `weight_v` or `parametrizations.weight.original0`, `original1`. Source: tests/golden/README.md, released_checkpoint_keys.json.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from configs.schema import ModelConfig
from model.projection import REFERENCE_NAMES, AudioSelfAttentionPool, ImageLinear

# (channels, patch side) of the image encoder -> timm's name; channels of the audio encoder -> ours.
_IMAGE_ENCODERS = {
    (384, 8): "vit_small_patch8_224.dino",
    (384, 16): "vit_small_patch16_224.dino",
    (768, 8): "vit_base_patch8_224.dino",
}
_AUDIO_ENCODERS = {1024: "hubert_large_ls960", 768: "hubert_base"}
# Ours never reads these: the vector that masks spectra in HuBERT's own training, and running means of the reference's optimiser.
_IGNORED_KEYS = re.compile(r"audio_model\.model\.masked_spec_embed|.*\.num_batches_tracked")
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
        for ours, theirs in REFERENCE_NAMES[ImageLinear].items()
    ),
    *(
        (f"^audio_aligner\\.{re.escape(theirs)}", f"audio_projection.{ours}")
        for ours, theirs in REFERENCE_NAMES[AudioSelfAttentionPool].items()
    ),
)


def infer_model_config(stored: Mapping[str, Tensor], heads: int) -> ModelConfig:
    """The settings of the model that weights under the reference's names belong to.

    Args:
        stored: the weights; only names and shapes are looked at.
        heads: K, which no weight tells.

    Raises:
        ValueError: not the weights of a DenseAV, or of encoders that are not known here.
    """
    shapes = {_rename_key(name): tuple(tensor.shape) for name, tensor in stored.items()}
    try:
        channels, _, patch_px, _ = shapes["image_encoder.model.patch_embed.proj.weight"]
        audio_channels = shapes["audio_encoder.model.encoder.feature_projection.projection.weight"][0]
        shared = shapes["image_projection.patch_proj.weight"][0]
    except KeyError as error:
        raise ValueError(f"these are not the weights of a DenseAV: {error.args[0]} is not among them") from None
    if (channels, patch_px) not in _IMAGE_ENCODERS or audio_channels not in _AUDIO_ENCODERS:
        raise ValueError(
            f"encoders of {channels} channels and {patch_px} px patches, and of {audio_channels} channels, are not known here"
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
    stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Weights under our names.

    Args:
        stored: under the reference's names.
        wanted: the state dict of the model they are for.

    Returns:
        What `load_state_dict` takes of them; the reference's names that have no place in it; our names that nothing was stored for.

    Raises:
        ValueError: a weight has another shape.
    """
    state: dict[str, Tensor] = {}
    unused = []
    for name, tensor in stored.items():
        ours = _rename_key(name)
        if ours not in wanted and re.sub(r"\.(weight|bias)$", r".base_layer.\1", ours) in wanted:
            ours = re.sub(r"\.(weight|bias)$", r".base_layer.\1", ours)
        if ours not in wanted:
            unused += [] if _IGNORED_KEYS.fullmatch(name) else [name]
        elif tensor.numel() != wanted[ours].numel():
            raise ValueError(f"{name} has the shape {list(tensor.shape)}, {list(wanted[ours].shape)} is wanted")
        else:  # the reference's convolutions over steps carry a frequency axis of size 1, its scale an axis of size 1
            state[ours] = tensor.reshape(wanted[ours].shape)
    return state, sorted(unused), sorted(wanted.keys() - state.keys())


def _rename_key(name: str) -> str:
    for theirs, ours in _RENAMED:
        name = re.sub(theirs, ours, name)
    return name


def extract_state_dict(content: Any) -> Mapping[str, Tensor]:
    """The state dict inside what a checkpoint file holds.

    Raises:
        ValueError: there is none.
    """
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("there is no state_dict of tensors in it")
    return state
