"""Save and load a model as a folder: `config.json` (architecture and input sizes) and `model.safetensors`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from configs.load import load_stored
from configs.schema import ModelConfig
from model.build import build_random_init
from model.denseav import DenseAV, InputSpec
from model.training.checkpoint_folder import MANIFEST, find_corruption, newest_checkpoint
from model.weights_file import save_tensors


def save_pretrained(model: DenseAV, config: ModelConfig, folder: Path) -> None:
    """Write the weights and the settings that `from_pretrained` needs into an existing folder."""
    (folder / "config.json").write_text(json.dumps(config_dict(model, config), indent=2) + "\n")
    save_tensors(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()},
        folder / "model.safetensors",
    )


def config_dict(model: DenseAV, config: ModelConfig) -> dict[str, Any]:
    """The content of config.json."""
    return {"model": dataclasses.asdict(config), "inputs": model.inputs._asdict()}


def from_pretrained(folder: str | Path) -> DenseAV:
    """Load a model in evaluation mode, on the accelerator if the machine has one.

    Args:
        folder: a folder written by `save_pretrained`, a checkpoint of a run, or a run folder (its newest valid
            checkpoint).

    Raises:
        ValueError: there is no model, or the weights do not fit the architecture in config.json.
    """
    folder = resolve_checkpoint(Path(folder))
    model, file = build_random_init(*_read_config(folder), seed=0), select_weights_file(folder)
    try:
        model.load_state_dict(load_file(file), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(
            f"checkpoint={folder}: {file.name} does not fit config.json: {' '.join(str(error).split())[:300]}"
        ) from None
    return _to_eval_device(model)


def select_weights_file(folder: Path) -> Path:
    """The weights file of a model folder: the averaged weights if there are any."""
    ema = folder / "ema.safetensors"
    return ema if ema.is_file() else folder / "model.safetensors"


def untrained(folder: str | Path, seed: int) -> DenseAV:
    """Build the architecture of `from_pretrained(folder)` with random weights drawn from `seed`.

    Raises:
        ValueError: there is no model.
    """
    return _to_eval_device(build_random_init(*_read_config(resolve_checkpoint(Path(folder))), seed))


def _to_eval_device(model: DenseAV) -> DenseAV:
    return model.eval().to(torch.accelerator.current_accelerator(check_available=True) or "cpu")


def _read_config(folder: Path) -> tuple[ModelConfig, InputSpec]:
    """Raises ValueError: config.json was written by an old version, or not by save_pretrained."""
    try:
        content = json.loads((folder / "config.json").read_bytes())
        model, inputs = content["model"], InputSpec(**content["inputs"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"checkpoint={folder}: config.json was not written by save_pretrained ({type(error).__name__} {error})"
        ) from None
    return load_stored(ModelConfig, model, f"checkpoint={folder}"), inputs


def resolve_checkpoint(folder: Path, key: str = "checkpoint") -> Path:
    """The folder itself or, for a run folder, its newest valid checkpoint.

    Args:
        folder: model folder, checkpoint or run folder.
        key: setting that named it, for the messages.

    Raises:
        ValueError: there is no model, or the checkpoint is damaged.
    """
    if all((folder / name).is_file() for name in ("config.json", "model.safetensors")):
        if (folder / MANIFEST).is_file() and (damage := find_corruption(folder)):
            raise ValueError(f"{key}={folder} is damaged ({damage})")
        return folder
    if newest := newest_checkpoint(folder / "checkpoints"):
        return newest
    raise ValueError(
        f"{key}={folder}: no model found; give a run folder, a checkpoint, or a folder with config.json and "
        "model.safetensors"
    )
