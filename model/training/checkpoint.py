"""A checkpoint is a folder that is either whole or not there: written under a temporary name, hashed, synced, renamed.

    runs/NAME/checkpoints/step_00001000/
        config.json model.safetensors     the model, loadable by model.hub.from_pretrained
        ema.safetensors                   the same with averaged weights, where optim.ema_decay asks for them: from_pretrained takes these
        optimizer.safetensors             moments of the optimiser, by parameter name
        clipping.safetensors              last norms of each gradient
        state.json                        step, phase, scaler, stream fingerprint, metrics, resolved settings, versions
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
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from configs.errors import CommandFailed
from configs.load import diff_configs, load_stored, to_yaml
from configs.schema import TrainConfig
from model.denseav import DenseAV
from model.distributed import world_size
from model.hub import config_dict, read_tensors, save_tensors
from model.training.clipping import GradientClipping
from model.training.dtensor import full_tensor, norms, shard_like
from model.training.ema import ModelEma

# A resumed run may change these: they move no number of the steps already made.
RESUMABLE_CHANGES = (
    *(
        "out",
        "name",
        "log_every_steps",
        "tracker",
        "checkpoint",
        "evaluate",
        "nonfinite_loss_action",
        "compile",
        "grad_cache_chunk_size",
        "time_limit_min",
        "distributed_timeout_s",
    ),
    *("stream.num_workers", "stream.prefetch_factor", "stream.max_error_rate", "stream.cache_dir", "stream.cache_gb"),
)


class TrainingState(NamedTuple):
    """All that changes from step to step; `average` and `scaler` are None in runs without them."""

    model: DenseAV
    optimizer: torch.optim.Optimizer
    clipping: GradientClipping
    ema: ModelEma | None = None
    scaler: torch.amp.GradScaler | None = None


class Snapshot(NamedTuple):
    """What one checkpoint will hold, copied to the host: training may go on while it is written.

    Attributes:
        step: number of finished steps.
        texts: file name -> what is written as JSON.
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
    fingerprint: dict[str, Any],
    metrics: Mapping[str, float] | None = None,
) -> Snapshot:
    """Copy what a checkpoint holds. Of a divided model every rank has to call it; only the first one keeps the tensors, which are whole.

    Args:
        step: number of finished steps.
        phase: the one they ended in.
        fingerprint: what the stream's order depends on (data sets, seed, windows).
        metrics: of an evaluation after this very step.

    Raises:
        CommandFailed: a weight is not finite, so that nobody should go on from here.
    """
    _check_finite(step, state.model)
    model = state.model.state_dict()
    tensors = {
        "model.safetensors": model,
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
            "versions": versions(),
        },
    }
    keeps = world_size() == 1 or distributed.get_rank() == 0
    gathered = {file: ((name, full_tensor(tensor)) for name, tensor in held.items()) for file, held in tensors.items()}
    return Snapshot(
        step,
        texts,
        {file: {name: _copied(tensor) for name, tensor in held if keeps} for file, held in gathered.items()},
    )


def write(root: Path, snap: Snapshot) -> Path:
    """Write `root/step_XXXXXXXX` atomically and return it.

    Raises:
        OSError: no room, no rights; nothing half-written is left.
    """
    final = root / f"step_{snap.step:08d}"
    temporary = root / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, text in snap.texts.items():
            (temporary / name).write_text(json.dumps(text, indent=2) + "\n")
        for name, tensors in snap.tensors.items():
            save_tensors(tensors, temporary / name)
        files = sorted(temporary.iterdir())
        with ThreadPoolExecutor() as pool:
            synced = pool.map(_sync, files)  # the disk writes while we hash
            hashes = dict(zip((file.name for file in files), pool.map(_sha256, files), strict=True))
            list(synced)
        (temporary / "manifest.json").write_text(json.dumps(hashes, indent=2) + "\n")
        _sync(temporary / "manifest.json")
        _sync(temporary)
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
        ValueError: a setting or a data set is another one now; the line names each with both values. Or this machine does not see the folder.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not on this machine: out={config.out} must be a folder that all machines of the run share"
        )
    state = json.loads((folder / "state.json").read_text())
    before = load_stored(TrainConfig, state["config"], str(folder))
    moved = [
        f"stream.sources.{number}.shards" for number in range(len(config.stream.sources))
    ]  # the stream's fingerprint tells what is in them
    steps = [] if config.optim.schedule == "cosine" else ["steps"]
    changes = diff_configs(before, config, ignore=[*RESUMABLE_CHANGES, *moved, *steps]) or diff_configs(
        state["stream"], json.loads(json.dumps(fingerprint))
    )
    if changes:
        raise ValueError(
            f"{folder} was made with other settings ({'; '.join(changes)}): put them back, or give the run another name="
        )
    return state


def restore(folder: Path, state: TrainingState, same_phase: bool) -> None:
    """Load the weights, their average and the loss scaler.

    Args:
        same_phase: load the optimiser's moments and the norms for clipping too, which a fresh phase begins without.

    Raises:
        ValueError: the weights are of another model.
    """
    own = state.model.state_dict()
    weights = {
        name: shard_like(tensor, own.get(name)) for name, tensor in read_tensors(folder / "model.safetensors").items()
    }
    try:
        state.model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{folder} holds another model: {' '.join(str(error).split())[:300]}") from None
    if state.ema is not None:
        state.ema.load(read_tensors(folder / "ema.safetensors"))
    if same_phase:
        parameters = dict(state.model.named_parameters())
        for key, value in read_tensors(folder / "optimizer.safetensors").items():
            name, entry = key.split("|")
            like = parameters[name]
            state.optimizer.state[like][entry] = value if entry == "step" else shard_like(value, like).to(like.device)
        state.clipping.load(read_tensors(folder / "clipping.safetensors"))
    scaler_state = json.loads((folder / "state.json").read_text())["scaler"]
    if state.scaler is not None and scaler_state:
        state.scaler.load_state_dict(scaler_state)


def find_corruption(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None when every hash holds."""
    try:
        hashes = json.loads((folder / "manifest.json").read_text())
        if lost := {"config.json", "model.safetensors", "optimizer.safetensors", "state.json"} - hashes.keys():
            return f"manifest.json does not name {', '.join(sorted(lost))}"
        with ThreadPoolExecutor() as pool:
            for name, found in zip(hashes, pool.map(_sha256, [folder / name for name in hashes]), strict=True):
                if found != hashes[name]:
                    return f"{name} has changed"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return str(error)
    return None


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    import accelerate
    import numpy

    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "accelerate": accelerate.__version__,
        "numpy": numpy.__version__,
    }


def _check_finite(step: int, model: DenseAV) -> None:
    weights = dict(model.named_parameters()) | {
        name: buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2].startswith("running_")
    }
    finite = norms([weight.detach() for weight in weights.values()]).isfinite()
    if not finite.all():
        broken = [name for name, is_finite in zip(weights, finite.tolist(), strict=True) if not is_finite]
        raise CommandFailed(
            f"step {step}: {len(broken)} weights are not finite, {broken[0]} the first; they are not saved, so the run can go on from before"
        )


def _optimizer_tensors(state: TrainingState) -> dict[str, Tensor]:
    """The optimiser's state as `parameter name|entry` -> tensor."""
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    return {
        f"{names[id(parameter)]}|{entry}": torch.as_tensor(value)
        for parameter, entries in state.optimizer.state.items()
        for entry, value in entries.items()
    }


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
