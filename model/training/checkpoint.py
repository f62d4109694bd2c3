"""Write and restore checkpoints: folders that appear complete or not at all (temporary name, hashes, fsync, rename).

    runs/NAME/checkpoints/step_00001000/
        config.json model.safetensors     the model, loadable by model.hub.from_pretrained
        ema.safetensors                   averaged weights (if optim.ema_decay > 0); from_pretrained prefers them
        optimizer.safetensors             moments of the optimizer, by parameter name
        clipping.safetensors              recent gradient norms of each parameter
        state.json                        step, phase, loss scaler, stream fingerprint, metrics, settings, versions
        manifest.json                     SHA-256 of each file, written last

Nothing else is needed: the loader's position is the step, the learning rate a function of it, and random numbers are
drawn from (seed, step, rank).
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import accelerate
import numpy
import torch
from safetensors.torch import load_file
from torch import Tensor

from configs.atomic_write import temporary_path
from configs.errors import CommandFailed
from configs.load import to_yaml
from configs.schema import TrainConfig
from model.denseav import DenseAV
from model.distributed import rank
from model.hub import config_dict
from model.training.checkpoint_folder import MANIFEST, sha256
from model.training.clipping import GradientClipper
from model.training.dtensor import full_tensor, norms, shard_like
from model.training.ema import ModelEma
from model.weights_file import save_tensors


class TrainingState(NamedTuple):
    """Everything that a training step changes; `ema` and `scaler` are None in runs without them."""

    model: DenseAV
    optimizer: torch.optim.Optimizer
    clipping: GradientClipper
    ema: ModelEma | None = None
    scaler: torch.amp.GradScaler | None = None


class Snapshot(NamedTuple):
    """The content of one checkpoint, copied to the host: training may continue while it is written.

    Attributes:
        step: number of finished steps.
        texts: file name -> value written as JSON.
        tensors: file name -> tensors by name.
    """

    step: int
    texts: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def snapshot(
    step: int,
    phase: str,
    state: TrainingState,
    config: TrainConfig,
    fingerprint: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
) -> Snapshot:
    """Copy the content of a checkpoint to the host.

    If the model is sharded, every rank has to call it; only rank 0 keeps the tensors.

    Args:
        step: number of finished steps.
        phase: phase of the last step.
        fingerprint: everything the order of the stream depends on (data sets, seed, windows).
        metrics: of an evaluation after this step.

    Raises:
        CommandFailed: a weight is not finite, so that no run should resume from here.
    """
    _check_finite(step, state.model)
    tensors = {
        "model.safetensors": state.model.state_dict(),
        "optimizer.safetensors": _optimizer_tensors(state),
        "clipping.safetensors": state.clipping.state(),
    }
    if state.ema is not None:
        tensors["ema.safetensors"] = state.ema.weights(state.model)
    texts = {
        "config.json": config_dict(state.model, config.model),
        "state.json": {
            "step": step,
            "phase": phase,
            "scaler": state.scaler.state_dict() if state.scaler is not None else None,
            "stream": fingerprint,
            "metrics": dict(metrics or {}),
            "config": to_yaml(config),
            # Of the packages that compute the numbers.
            "versions": {
                "python": sys.version.split()[0],
                "torch": torch.__version__,
                "accelerate": accelerate.__version__,
                "numpy": numpy.__version__,
            },
        },
    }
    return Snapshot(step, texts, {file: _copy_to_host(part) for file, part in tensors.items()})


def write(root: Path, snap: Snapshot) -> Path:
    """Write `root/step_XXXXXXXX` atomically.

    Returns:
        The folder.

    Raises:
        OSError: the disk is full or not writable; no partial checkpoint is left.
    """
    final = root / f"step_{snap.step:08d}"
    temporary = temporary_path(final)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, text in snap.texts.items():
            (temporary / name).write_text(json.dumps(text, indent=2) + "\n")
        for name, tensors in snap.tensors.items():
            save_tensors(tensors, temporary / name)
        files = sorted(temporary.iterdir())
        with ThreadPoolExecutor() as pool:
            synced = pool.map(_sync, files)  # the disk writes while the processor hashes
            hashes = dict(zip((file.name for file in files), pool.map(sha256, files), strict=True))
            list(synced)
        (temporary / MANIFEST).write_text(json.dumps(hashes, indent=2) + "\n")
        _sync(temporary / MANIFEST)
        _sync(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.replace(final)
        _sync(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def restore(folder: Path, state: TrainingState, same_phase: bool) -> None:
    """Load the weights, their average and the loss scaler from a checkpoint.

    Args:
        same_phase: also load the optimizer's moments and the gradient norms for clipping, which a new phase starts
            without.

    Raises:
        ValueError: the weights belong to another model.
    """
    current = state.model.state_dict()
    weights = {
        name: shard_like(tensor, current.get(name)) for name, tensor in load_file(folder / "model.safetensors").items()
    }
    try:
        state.model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{folder} does not fit the model: {' '.join(str(error).split())[:300]}") from None
    if state.ema is not None:
        state.ema.load(load_file(folder / "ema.safetensors"))
    if same_phase:
        parameters = dict(state.model.named_parameters())
        for key, value in load_file(folder / "optimizer.safetensors").items():
            name, entry = key.split("|")
            like = parameters[name]
            state.optimizer.state[like][entry] = value if entry == "step" else shard_like(value, like).to(like.device)
        state.clipping.load(load_file(folder / "clipping.safetensors"))
    scaler_state = json.loads((folder / "state.json").read_text())["scaler"]
    if state.scaler is not None and scaler_state:
        state.scaler.load_state_dict(scaler_state)


def _check_finite(step: int, model: DenseAV) -> None:
    weights = dict(model.named_parameters()) | {
        name: buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2].startswith("running_")
    }
    finite = norms([weight.detach() for weight in weights.values()]).isfinite()
    if not finite.all():
        broken = [name for name, is_finite in zip(weights, finite.tolist(), strict=True) if not is_finite]
        raise CommandFailed(
            f"step {step}: {len(broken)} weights are NaN or infinite, first {broken[0]}; no checkpoint is written, "
            "so that the run can resume from the one before"
        )


def _optimizer_tensors(state: TrainingState) -> dict[str, Tensor]:
    """The optimizer's state as `parameter name|entry` -> tensor."""
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    return {
        f"{names[id(parameter)]}|{entry}": torch.as_tensor(value)
        for parameter, entries in state.optimizer.state.items()
        for entry, value in entries.items()
    }


def _copy_to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather full tensors on every rank, and copy them on rank 0."""
    full = ((name, full_tensor(tensor).detach()) for name, tensor in tensors.items())
    return {
        name: tensor.to("cpu", copy=True, memory_format=torch.contiguous_format) for name, tensor in full if rank() == 0
    }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
