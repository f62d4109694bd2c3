"""Sources of the weights of a full-size encoder: `pretrained` (the library's own loader), `random`, or a file."""

from pathlib import Path

from torch import Tensor

from model.weights_file import read_checkpoint

RANDOM, PRETRAINED = "random", "pretrained"


def read_weights(file: str, origin: str, ignore: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Read the state dict in a safetensors file or one that `torch.load(weights_only=True)` reads.

    The state dict may also be under the key `state_dict` or `model`.

    Args:
        file: its path.
        origin: the setting that named the file, for error messages.
        ignore: prefixes of keys that are left out.

    Raises:
        ValueError: no such file, or it cannot be read without unpickling code, or it contains no state dict.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{origin}: no such file")
    try:
        content = read_checkpoint(path)
    except Exception as error:
        raise ValueError(f"{origin} is not a checkpoint ({summarize_error(error)})") from None
    if isinstance(content, dict):
        content = content.get("state_dict", content.get("model", content))
    items = content.items() if isinstance(content, dict) else ()
    state = {key: value for key, value in items if isinstance(value, Tensor) and not key.startswith(ignore)}
    if not state:
        raise ValueError(f"{origin} is not a checkpoint: it contains no state dict")
    return state


def mismatched_weights_error(origin: str, error: Exception) -> ValueError:
    """The error to raise when weights do not fit the model that a library built."""
    return ValueError(f"{origin} has weights of another model ({' '.join(str(error).split())[:300]})")


def summarize_error(error: Exception) -> str:
    """First line of an error message, at most 200 characters, or the name of its class where it has none."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
