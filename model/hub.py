"""A model as a folder: `config.json` (architecture and input sizes) beside `model.safetensors`. Nothing is unpickled."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import torch

from configs.load import load_stored
from configs.schema import ModelConfig
from model.build import build_random_init
from model.denseav import DenseAV, InputSpec


def save_pretrained(model: DenseAV, config: ModelConfig, folder: Path) -> None:
    """Write the weights and what is needed to build the model again into an existing folder."""
    (folder / "config.json").write_text(json.dumps(config_dict(model, config), indent=2) + "\n")
    save_tensors(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()},
        folder / "model.safetensors",
    )


def config_dict(model: DenseAV, config: ModelConfig) -> dict[str, Any]:
    """What config.json holds."""
    return {"model": dataclasses.asdict(config), "inputs": model.inputs._asdict()}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU."""
    from safetensors.torch import load_file

    return load_file(path)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors on the CPU as safetensors; a disk that is full or refuses is an OSError, not the library's own error."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def from_pretrained(folder: str | Path) -> DenseAV:
    """Load a model in evaluation mode, on the machine's accelerator where there is one.

    Args:
        folder: what `save_pretrained` wrote, a step folder of a run, or a run folder (its newest whole checkpoint).

    Raises:
        ValueError: nothing to load there, or the weights do not fit the stated architecture.
    """
    from safetensors import SafetensorError

    folder = resolve_checkpoint(Path(folder))
    model, file = build_random_init(*_description(folder), seed=0), select_weights_file(folder)
    try:
        model.load_state_dict(read_tensors(file), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(
            f"checkpoint={folder}: {file.name} does not fit config.json: {' '.join(str(error).split())[:300]}"
        ) from None
    return _to_eval_device(model)


def select_weights_file(folder: Path) -> Path:
    """Where the weights of a model folder are that count: averaged over steps, where there are such."""
    ema = folder / "ema.safetensors"
    return ema if ema.is_file() else folder / "model.safetensors"


def untrained(folder: str | Path, seed: int) -> DenseAV:
    """The architecture of `from_pretrained(folder)` with random weights drawn from `seed`. Raises ValueError: no model there."""
    return _to_eval_device(build_random_init(*_description(resolve_checkpoint(Path(folder))), seed))


def _to_eval_device(model: DenseAV) -> DenseAV:
    return model.eval().to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")


def _description(folder: Path) -> tuple[ModelConfig, InputSpec]:
    """Raises ValueError: config.json was written by an old version, or is not one of ours."""
    try:
        description = json.loads((folder / "config.json").read_bytes())
        model, inputs = description["model"], InputSpec(**description["inputs"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"checkpoint={folder}: config.json is not one of ours ({type(error).__name__} {error})"
        ) from None
    return load_stored(ModelConfig, model, f"checkpoint={folder}"), inputs


def resolve_checkpoint(folder: Path, key: str = "checkpoint") -> Path:
    """The folder itself or, of a run folder, the newest whole checkpoint.

    Args:
        key: the setting that named it.

    Raises:
        ValueError: no model there, or a checkpoint that is damaged.
    """
    from model.training.checkpoint import find_corruption
    from model.training.checkpoint_manager import newest_checkpoint

    if _has_model(folder):
        if (folder / "manifest.json").is_file() and (damage := find_corruption(folder)):
            raise ValueError(f"{key}={folder} is damaged ({damage})")
        return folder
    newest = newest_checkpoint(folder / "checkpoints")
    if newest and _has_model(newest):
        return newest
    raise ValueError(
        f"{key}={folder}: no model there; give a run folder, a step folder, or a folder with config.json and model.safetensors"
    )


def _has_model(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file() and (folder / "config.json").is_file()
