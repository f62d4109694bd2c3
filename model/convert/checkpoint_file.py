"""Convert one published checkpoint file: read it without running code in it, recognize its system, load its weights."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import UsageError, raised_by_us

if TYPE_CHECKING:
    from torch import Tensor

    from model.convert.converter import Converted, Converter


def converters() -> dict[str, Converter]:
    """Name of a published system -> its converter."""
    from model.convert import denseav

    return {"denseav": denseav}


def convert_file(source: str, num_heads: int = 0) -> Converted:
    """Convert a published checkpoint.

    Args:
        source: .ckpt (Lightning) or .safetensors. Settings are read from hyper_parameters inside a .ckpt, or from
            config.json in the folder of a .safetensors.
        num_heads: K; 0: from the settings.

    Raises:
        UsageError: no such file, it cannot be read, or it is not a checkpoint of a supported system.
    """
    return convert_content(read_content(source), source, num_heads)


def convert_content(content: Any, source: str, num_heads: int = 0) -> Converted:
    """The same from the content of the file."""
    stored, settings = state_dict(content, source), _settings(content, Path(source))
    systems = converters()
    name = next((name for name, converter in systems.items() if converter.recognizes(stored, settings)), None)
    if name is None:
        raise UsageError(f"source={source}: not a checkpoint of a supported system ({', '.join(systems)})")
    try:
        return systems[name].convert(stored, settings, num_heads)
    except (ValueError, IndexError, TypeError) as error:
        if isinstance(error, ValueError) and raised_by_us(error):
            raise UsageError(f"source={source}: {error}") from None
        # Shapes or settings that the system's models do not have.
        details = " ".join(str(error).split())[:200]
        raise UsageError(f"source={source}: not a {name} checkpoint ({type(error).__name__}: {details})") from None


def read_content(source: str) -> Any:
    """The content of a checkpoint file, read without running code in it.

    Raises:
        UsageError: no such file, or it cannot be read.
    """
    from model.weights_file import read_checkpoint

    path = Path(source)
    if not source or not path.is_file():
        raise UsageError(f"source={source!r}: no such file; give a published .ckpt, .pth or .safetensors")
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


def state_dict(content: Any, source: str) -> Mapping[str, Tensor]:
    """The tensors by name in the content of a file.

    Raises:
        UsageError: it contains none, or something else.
    """
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
