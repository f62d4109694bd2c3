"""A checkpoint is a folder that is either whole or not there: written under a temporary name, hashed, synced, renamed; older ones pruned after.

    runs/NAME/checkpoints/step_00001000/
        config.json model.safetensors     the model, loadable by model.hub.from_pretrained
        optimizer.safetensors             moments of the optimiser, by parameter name
        state.json                        step, phase, scaler, stream fingerprint, resolved settings, versions
        manifest.json                     SHA-256 of each of these, written last

The loader's position is the step, the learning rate a function of it, and random
numbers are drawn from (seed, step, rank), so this is all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from configs.command import UsageError
from configs.load import changed_keys, load, to_yaml
from configs.schema import TrainConfig
from model.grounding.denseav import DenseAV
from model.hub import save_pretrained, save_tensors

# A resumed run may change these: they move no number of the steps already made.
FREE_KEYS = ("out", "name", "log_every_steps", "tracker", "checkpoint", "stream.workers", "stream.prefetch_batches", "stream.max_rejected_share")


def save(
    root: Path,
    step: int,
    phase: str,
    model: DenseAV,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    config: TrainConfig,
    fingerprint: dict[str, Any],
) -> Path:
    """Write `root/step_XXXXXXXX` atomically and return it.

    Args:
        root: the run's folder of checkpoints.
        step: number of finished steps.
        fingerprint: what the stream's order depends on (data sets, seed, windows).

    Raises:
        OSError: no room, no rights; nothing half-written is left.
    """
    final = root / f"step_{step:08d}"
    temporary = root / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    state = {
        "step": step,
        "phase": phase,
        "scaler": scaler.state_dict() if scaler is not None else None,
        "stream": fingerprint,
        "config": to_yaml(config),
        "versions": versions(),
    }
    try:
        save_pretrained(model, config.model, temporary)
        save_tensors(_optimizer_tensors(model, optimizer), temporary / "optimizer.safetensors")
        (temporary / "state.json").write_text(json.dumps(state, indent=2) + "\n")
        hashes = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
        (temporary / "manifest.json").write_text(json.dumps(hashes, indent=2) + "\n")
        for path in [*temporary.iterdir(), temporary]:
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        temporary.replace(final)
        _sync(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def read_state(folder: Path, config: TrainConfig, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """state.json of a checkpoint, once it is sure that this run may go on from it.

    Raises:
        UsageError: a setting or a data set is another one now; the line names each with both values.
    """
    state = json.loads((folder / "state.json").read_text())
    before = load(TrainConfig, [], text=state["config"])
    moved = [f"stream.sources.{number}.shards" for number in range(len(config.stream.sources))]  # the stream's fingerprint tells what is in them
    steps = ["steps"] if config.optim.schedule == "constant" else []
    changes = changed_keys(before, config, ignore=[*FREE_KEYS, *moved, *steps]) or changed_keys(state["stream"], json.loads(json.dumps(fingerprint)))
    if changes:
        raise UsageError(f"{folder} was made with other settings ({'; '.join(changes)}): put them back, or give the run another name=")
    return state


def restore(folder: Path, model: DenseAV, optimizer: torch.optim.Optimizer | None, scaler: torch.amp.GradScaler | None) -> None:
    """Load the weights and, where given, the optimiser's moments and the loss scaler.

    Raises:
        UsageError: the weights are of another model.
    """
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    except RuntimeError as error:
        raise UsageError(f"{folder} holds another model: {' '.join(str(error).split())[:300]}") from None
    if optimizer is not None:
        parameters = dict(model.named_parameters())
        for key, value in load_file(folder / "optimizer.safetensors").items():
            name, entry = key.split("|")
            optimizer.state[parameters[name]][entry] = value if entry == "step" else value.to(parameters[name].device)
    scaler_state = json.loads((folder / "state.json").read_text())["scaler"]
    if scaler is not None and scaler_state:
        scaler.load_state_dict(scaler_state)


def prune(root: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last` checkpoints."""
    for folder in _step_folders(root)[keep_last:]:
        shutil.rmtree(folder)


def newest_checkpoint(root: Path) -> Path | None:
    """The newest whole checkpoint; a damaged one is skipped with a warning for the one before; None when there are no checkpoints.

    Raises:
        UsageError: there are checkpoints, and all are damaged.
    """
    folders = _step_folders(root)
    for folder in folders:
        damage = damage_of(folder)
        if damage is None:
            return folder
        warnings.warn(f"{folder} is damaged ({damage}): going back to the checkpoint before it", stacklevel=2)
    if folders:
        raise UsageError(f"{root}: all {len(folders)} checkpoints are damaged; restore one, or remove them to begin anew")
    return None


def set_aside_newer(root: Path, step: int) -> None:
    """Rename the (damaged) checkpoints after `step` to damaged_step_X, so that none is taken for a newer one than those the run will write."""
    for folder in _step_folders(root):
        if int(folder.name[5:]) > step:
            aside = folder.with_name(f"damaged_{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)


def _step_folders(root: Path) -> list[Path]:
    """The folders of checkpoints, newest first; other names are left alone."""
    return sorted((folder for folder in root.glob("step_*") if folder.name[5:].isdigit()), key=lambda folder: int(folder.name[5:]), reverse=True)


def damage_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None when every hash holds."""
    try:
        hashes = json.loads((folder / "manifest.json").read_text())
        for name, expected in hashes.items():
            if _sha256(folder / name) != expected:
                return f"{name} has changed"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    import accelerate
    import numpy

    return {"python": sys.version.split()[0], "torch": torch.__version__, "accelerate": accelerate.__version__, "numpy": numpy.__version__}


def _optimizer_tensors(model: DenseAV, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state as `parameter name|entry` -> tensor."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}|{entry}": torch.as_tensor(value).detach().cpu().contiguous()
        for parameter, entries in optimizer.state.items()
        for entry, value in entries.items()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
