"""Features of a gallery kept in a folder between runs: `FOLDER/gallery-HASH.safetensors`, where the hash says what they are features of.

It is of the weights, the model's parts and inputs, the data set and what was drawn of it, so that another model, data set or setting is another file.
The tensors' own digest lies in the file: what was damaged on the disk is encoded again.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from configs.atomic_write import temporary_path
from configs.errors import UsageError
from eval.distributed import rank
from model.denseav import DenseAV
from model.distributed import world_size

Kept = dict[str, Tensor]


class FeatureCache:
    """Tensors by name in a folder.

    Args:
        folder: made when it is missing.

    Raises:
        UsageError: it cannot be made.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"feature_cache_dir={folder}: {error.strerror}; name a folder that can be written, or leave it empty"
            ) from None

    def get_or_compute(self, model: DenseAV, settings: Mapping[str, Any], encode: Callable[[], Kept]) -> Kept:
        """What was kept of this model and these settings, or what `encode` gives, kept now; on every rank the same."""
        path = self.folder / f"gallery-{_fingerprint(model, settings)}.safetensors"
        found = _read(path)
        if _on_every_rank(found is not None):
            return {name: tensor.to(next(model.parameters()).device) for name, tensor in found.items()}
        found = encode()
        if rank() == 0:
            _write(found, path)
        return found


def _fingerprint(model: DenseAV, settings: Mapping[str, Any]) -> str:
    """Of all that features depend on; the model's repr says its layers and their settings, and numbers differ in their last bits between devices."""
    parts = {
        "model": repr(model),
        "heads": model.num_heads,
        "inputs": model.inputs,
        "device": next(model.parameters()).device.type,
        **settings,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    return _update(digest, model.state_dict()).hexdigest()[:32]


def _update(digest: Any, tensors: Mapping[str, Tensor]) -> Any:
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest


def _read(path: Path) -> Kept | None:
    """The tensors of a file; None where there is none, or (with a warning) none that is whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as stored:
            stated = (stored.metadata() or {}).get("sha256")
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError) as error:
        return _warn(f"{path} cannot be read ({' '.join(str(error).split())[:200]}): the features are made again")
    if stated != _update(hashlib.sha256(), tensors).hexdigest():
        return _warn(f"{path} is damaged: the features are made again")
    return tensors


def _write(tensors: Kept, path: Path) -> None:
    """The file appears whole or, with a warning, not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = temporary_path(path)
    try:
        stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(stored, temporary, {"sha256": _update(hashlib.sha256(), stored).hexdigest()})
        temporary.replace(path)
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)
        _warn(f"features are not kept in {path}: {' '.join(str(error).split())[:200]}")


def _warn(text: str) -> None:
    if rank() == 0:
        print(f"warning: {text}", file=sys.stderr)


def _on_every_rank(own: bool) -> bool:
    told = [own] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(told, own)
    return all(told)
