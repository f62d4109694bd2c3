"""A cache of gallery features on disk: `FOLDER/gallery-HASH.safetensors`.

The hash is of everything that the features depend on: the weights, the modules and inputs of the model, the data set
and the settings of the gallery. Each file stores a digest of its tensors: a damaged one is detected and computed again.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from configs.atomic_write import temporary_path
from configs.errors import UsageError
from eval.distributed import gather_objects, rank
from model.denseav import DenseAV
from model.weights_file import hash_tensors, save_tensors

Tensors = dict[str, Tensor]


class FeatureCache:
    """Tensors by name in a folder.

    Args:
        folder: created if it does not exist.

    Raises:
        UsageError: it cannot be created.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"feature_cache_dir={folder}: {error.strerror}; allowed are a writable folder, or empty for no cache"
            ) from None

    def get_or_compute(self, model: DenseAV, settings: Mapping[str, Any], compute: Callable[[], Tensors]) -> Tensors:
        """The cached tensors of this model and these settings; if there are none, those of `compute`, which are cached.

        The result is the same on every rank.
        """
        path = self.folder / f"gallery-{_fingerprint(model, settings)}.safetensors"
        cached = _read(path)
        if all(gather_objects(cached is not None)) and cached is not None:
            return {name: tensor.to(next(model.parameters()).device) for name, tensor in cached.items()}
        tensors = compute()
        if rank() == 0:
            _write(tensors, path)
        return tensors


def _fingerprint(model: DenseAV, settings: Mapping[str, Any]) -> str:
    """Hash of all that features depend on.

    The repr of the model contains its layers and their settings; the last bits of features differ between devices.
    """
    parts = {
        "model": repr(model),
        "heads": model.num_heads,
        "inputs": model.inputs,
        "device": next(model.parameters()).device.type,
        **settings,
    }
    return hash_tensors(model.state_dict(), json.dumps(parts, sort_keys=True))[:32]


def _read(path: Path) -> Tensors | None:
    """The tensors of a file; None if there is no such file, or (with a warning) if it is damaged."""
    try:
        with safe_open(path, "pt") as stored:
            sha256 = (stored.metadata() or {}).get("sha256")
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError) as error:
        _warn(f"{path} cannot be read ({' '.join(str(error).split())[:200]}): encoding its features again")
        return None
    if sha256 != hash_tensors(tensors):
        _warn(f"{path} is damaged: encoding its features again")
        return None
    return tensors


def _write(tensors: Tensors, path: Path) -> None:
    """Write the file atomically; print a warning if that fails."""
    temporary = temporary_path(path)
    try:
        stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_tensors(stored, temporary, {"sha256": hash_tensors(stored)})
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        _warn(f"features are not cached in {path}: {' '.join(str(error).split())[:200]}")


def _warn(text: str) -> None:
    if rank() == 0:
        print(f"warning: {text}", file=sys.stderr)
