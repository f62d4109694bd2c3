"""Convert a published checkpoint for `from_pretrained`: `python -m model.convert source=denseav_2head.ckpt out=DIR`

Reads .ckpt (Lightning; no code in it is run) and .safetensors. Settings are read from hyper_parameters inside a .ckpt,
or from config.json in the folder of a .safetensors; num_heads= replaces the number of heads. Prints the stored weights
that the model does not use. If weights of the model are missing, it prints them, writes nothing and exits with 1.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.cli import run
from configs.errors import UsageError, raised_by_us
from configs.schema import ConvertConfig

if TYPE_CHECKING:
    from torch import Tensor

    from model.convert.converter import Converted, Converter


def converters() -> dict[str, Converter]:
    """Name of a published system -> its converter."""
    from model.convert import denseav

    return {"denseav": denseav}


def main(config: ConvertConfig) -> int:
    """Read, convert, write the folder and print a summary."""
    from model.hub import save_pretrained

    if not config.out:
        raise UsageError("out= is empty: give the folder to write the model to")
    content = _read(config.source)
    stored, settings = _state_dict(content, config.source), _settings(content, Path(config.source))
    model, model_config, loaded, unused, missing = _convert(config, stored, settings)
    for name in unused:
        print(f"unused   {name}")
    for name in missing:
        print(f"missing  {name}")
    if missing:
        print(f"{len(missing)} weights are not in {config.source}; nothing was written", file=sys.stderr)
        return 1
    out, weights = Path(config.out), model.state_dict()
    out.mkdir(parents=True, exist_ok=True)
    save_pretrained(model, model_config, out)
    lora = f", LoRA of rank {model_config.lora_rank}" if model_config.lora_rank else ""
    parameters = sum(weights[name].numel() for name in loaded)
    summary = {
        "image": f"{model_config.image_encoder}{lora}",
        "audio": model_config.audio_encoder,
        "heads": f"{model_config.num_heads}, {model_config.embed_dim} channels in all",
        "weights": f"{parameters:,} in {len(loaded)} tensors, {len(unused)} unused",
        "written": out,
    }
    for name, value in summary.items():
        print(f"{name:<10}{value}")
    return 0


def _convert(config: ConvertConfig, stored: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Converted:
    systems = converters()
    name = next((name for name, converter in systems.items() if converter.recognizes(stored, settings)), None)
    if name is None:
        raise UsageError(f"source={config.source}: not a checkpoint of a supported system ({', '.join(systems)})")
    try:
        return systems[name].convert(stored, settings, config.num_heads)
    except (ValueError, IndexError, TypeError) as error:
        if isinstance(error, ValueError) and raised_by_us(error):
            raise UsageError(f"source={config.source}: {error}") from None
        # Shapes or settings that the system's models do not have.
        details = " ".join(str(error).split())[:200]
        raise UsageError(
            f"source={config.source}: not a {name} checkpoint ({type(error).__name__}: {details})"
        ) from None


def _read(source: str) -> Any:
    """The content of a checkpoint file, read without running code in it."""
    from model.weights_file import read_checkpoint

    path = Path(source)
    if not source or not path.is_file():
        raise UsageError(f"source={source!r}: no such file; give a published .ckpt or .safetensors")
    try:
        return read_checkpoint(path)
    except Exception as error:
        # torch's own message advises to run the code.
        reason = (
            "it holds more than tensors and plain values, or is damaged"
            if isinstance(error, pickle.UnpicklingError)
            else str(error).strip().partition("\n")[0] or type(error).__name__
        )
        raise UsageError(f"source={source} cannot be read without running code in it ({reason[:200]})") from None


def _state_dict(content: Any, source: str) -> Mapping[str, Tensor]:
    from torch import Tensor

    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"source={source}: no state_dict of tensors in it")
    return state


def _settings(content: Any, path: Path) -> Mapping[str, Any]:
    """The settings of the run that made the weights; empty if there are none."""
    file = path.with_name("config.json")
    try:
        if path.suffix == ".safetensors" and file.is_file():
            settings = json.loads(file.read_text())
        else:
            settings = content.get("hyper_parameters")
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read ({error})") from None
    return settings if isinstance(settings, Mapping) else {}


if __name__ == "__main__":
    sys.exit(run(ConvertConfig, __doc__, main))
