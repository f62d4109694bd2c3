"""Where the weights of a full-size encoder come from: `pretrained` (the library's own loader), `random`, or a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

RANDOM, PRETRAINED = "random", "pretrained"


def read_weights(file: str, origin: str, ignore: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The state dict in a file that `torch.load(weights_only=True)` or safetensors reads, also where it lies under `state_dict` or `model`.

    Args:
        file: its path.
        origin: the setting that named it, for the error line.
        ignore: keys that begin with one of these are left out.

    Raises:
        ValueError: no such file, or none that holds tensors by name and can be read without unpickling code.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{origin}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors', pickle's and zip's errors have no common base
        raise ValueError(f"{origin} is no file of weights ({summarize_error(error)})") from None
    state = state.get("state_dict", state.get("model", state)) if isinstance(state, dict) else {}
    state = (
        {key: value for key, value in state.items() if isinstance(value, Tensor) and not key.startswith(ignore)}
        if isinstance(state, dict)
        else {}
    )
    if not state:
        raise ValueError(f"{origin} is no file of weights (there are no tensors by name in it)")
    return state


def mismatched_weights_error(origin: str, error: Exception) -> ValueError:
    """What to raise when a library finds that weights do not belong to the model it built."""
    return ValueError(f"{origin} has weights of another model ({' '.join(str(error).split())[:300]})")


def summarize_error(error: Exception) -> str:
    """The beginning of what an error says, or its name where it says nothing."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
