"""A model as a folder: `config.json` (architecture and input sizes) beside `model.safetensors`. Nothing is unpickled."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import torch

from configs.command import UsageError
from configs.schema import ModelConfig
from model.build import build_denseav
from model.grounding.denseav import DenseAV, InputSpec


def save_pretrained(model: DenseAV, config: ModelConfig, folder: Path) -> None:
    """Write the weights and what is needed to build the model again into an existing folder."""
    description = {"model": dataclasses.asdict(config), "inputs": model.inputs._asdict()}
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n")
    save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")


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
        UsageError: nothing to load there, or the weights do not fit the stated architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder, model = _build(folder)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UsageError(f"checkpoint={folder}: model.safetensors does not fit config.json: {' '.join(str(error).split())[:300]}") from None
    return _ready(model)


def untrained(folder: str | Path, seed: int) -> DenseAV:
    """The architecture of `from_pretrained(folder)` with fresh weights drawn from `seed`: the floor of every benchmark."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _ready(_build(folder)[1])


def _ready(model: DenseAV) -> DenseAV:
    return model.eval().to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")


def _build(folder: str | Path) -> tuple[Path, DenseAV]:
    found = _model_folder(Path(folder))
    description = json.loads((found / "config.json").read_text())
    try:
        return found, build_denseav(ModelConfig(**description["model"]), InputSpec(**description["inputs"]))
    except (KeyError, TypeError) as error:
        raise UsageError(f"checkpoint={found}: config.json is not one of ours ({error})") from None


def _model_folder(folder: Path) -> Path:
    from model.training.checkpoint import newest_checkpoint

    for found in (folder, newest_checkpoint(folder / "checkpoints")):
        if found and (found / "model.safetensors").is_file() and (found / "config.json").is_file():
            return found
    raise UsageError(f"checkpoint={folder}: no model there; give a run folder, a step folder, or a folder with config.json and model.safetensors")
