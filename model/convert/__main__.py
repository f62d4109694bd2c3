"""Released DenseAV weights into a folder that `from_pretrained` reads: `python -m model.convert source=denseav_2head.ckpt out=DIR`

Reads .ckpt (Lightning; nothing in it is run) and .safetensors, in both layouts of names. Sizes, encoders and adapters are read from the weights; how many
heads there are and how they are scored, only the settings tell: hyper_parameters inside a .ckpt, config.json beside a .safetensors, or heads=. Tells what
has no place in the model; where something was not stored, it tells that, writes nothing and ends with 1.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.cli import run
from configs.errors import UsageError, raised_by_us
from configs.schema import ConvertConfig

_HEADS_NAMES = ("sim_agg_heads", "num_heads", "heads")
# The reference's name of a setting -> ours.
_SCORE_NAMES = {
    "sim_agg_type": "similarity_aggregation",
    "head_agg": "head_aggregation",
    "nonneg_sim": "clamp_nonneg",
    "sim_use_cls": "add_cls_similarity",
    "image_pool_width": "image_pool_size",
}
_CLIP_SAMPLES, _SAMPLE_RATE_HZ, _IMAGE_PX = 164_200, 16_000, 224


def main(config: ConvertConfig) -> int:
    """Convert, and print what was found."""
    import torch

    from model.build import build_denseav
    from model.convert.denseav import convert_state_dict, extract_state_dict, infer_model_config
    from model.denseav import InputSpec
    from model.hub import save_pretrained

    if not config.out:
        raise UsageError("out= is empty: name the folder the model is written to")
    content = _read(config.source)
    try:
        stored = extract_state_dict(content)
        stated = _settings(content, Path(config.source))
        heads = config.num_heads or _heads(stated)
        settings = dataclasses.replace(
            infer_model_config(stored, heads),
            **{ours: stated[theirs] for theirs, ours in _SCORE_NAMES.items() if theirs in stated},
        )
        model = build_denseav(settings, InputSpec(_IMAGE_PX, _CLIP_SAMPLES / _SAMPLE_RATE_HZ, _SAMPLE_RATE_HZ)).eval()
        state, unused, missing = convert_state_dict(stored, model.state_dict())
    except (ValueError, IndexError, TypeError) as error:
        if isinstance(error, ValueError) and raised_by_us(error):
            raise UsageError(f"source={config.source}: {error}") from None
        # shapes and settings that no DenseAV has
        raise UsageError(
            f"source={config.source}: these are not the weights of a DenseAV ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from None
    model.load_state_dict({name: tensor.to(torch.float32) for name, tensor in state.items()}, strict=False)
    for name in unused:
        print(f"unused   {name}")
    for name in missing:
        print(f"missing  {name}")
    if missing:
        print(f"{len(missing)} weights are not in {config.source}; nothing was written", file=sys.stderr)
        return 1
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    save_pretrained(model, settings, out)
    print(
        f"{'image':<10}{settings.image_encoder}"
        + (f", adapters of rank {settings.lora_rank}" if settings.lora_rank else "")
    )
    print(f"{'audio':<10}{settings.audio_encoder}")
    print(f"{'heads':<10}{heads}, {settings.embed_dim} channels in all")
    print(
        f"{'weights':<10}{sum(tensor.numel() for tensor in state.values()):,} in {len(state)} tensors, {len(unused)} unused"
    )
    print(f"{'written':<10}{out}")
    return 0


def _read(source: str) -> Any:
    import torch

    path = Path(source)
    if not source or not path.is_file():
        raise UsageError(f"source={source!r}: no such file; give a released .ckpt or .safetensors")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors', pickle's and zip's errors have no common base
        # torch's own words for it advise to run the code.
        told = str(error).strip().partition("\n")[0] or type(error).__name__
        why = (
            "it holds more than tensors and plain values, or is damaged"
            if isinstance(error, pickle.UnpicklingError)
            else told
        )
        raise UsageError(f"source={source} cannot be read without running code in it ({why[:200]})") from None


def _settings(content: Any, path: Path) -> Mapping[str, Any]:
    """The settings of the run that made the weights; empty where there are none."""
    beside = path.with_name("config.json")
    try:
        stated = (
            json.loads(beside.read_text())
            if path.suffix == ".safetensors" and beside.is_file()
            else content.get("hyper_parameters")
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"{beside} cannot be read ({error})") from None
    stated = stated if isinstance(stated, Mapping) else {}
    if stated.get("norm_vectors"):
        raise UsageError("its settings say norm_vectors: features of length 1 are not known here")
    return stated


def _heads(stated: Mapping[str, Any]) -> int:
    """K, as the settings say."""
    for name in _HEADS_NAMES:
        if isinstance(stated.get(name), int):
            return stated[name]
    where = "its settings (hyper_parameters, or config.json beside it), which tell the number of heads, are missing"
    raise UsageError(f"{where}; give heads=1 (sound, language) or heads=2 (sound_and_language)")


if __name__ == "__main__":
    sys.exit(run(ConvertConfig, __doc__, main))
