"""Save and load a model as a folder: `config.json` (architecture and input sizes) and `model.safetensors`.

`load_pretrained` also takes names of published models, ids of the Hugging Face Hub and released checkpoints
(model.published).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from configs.load import load_stored
from configs.schema import ModelConfig
from model.build import build_random_init
from model.convert.checkpoint_file import convert_file
from model.denseav import DenseAV, InputSpec
from model.published import DEFAULT_OPTIONS, NUM_HEADS, HubOptions, locate
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


class Pretrained(NamedTuple):
    """A loaded model.

    Attributes:
        model: in evaluation mode.
        config: the settings that build it.
        folder: the folder or file it was loaded from.
    """

    model: DenseAV
    config: ModelConfig
    folder: Path


def from_pretrained(folder: str | Path) -> DenseAV:
    """Load a model in evaluation mode, on the accelerator if the machine has one.

    Args:
        folder: a folder written by `save_pretrained`, a checkpoint of a run, or a run folder (its newest valid
            checkpoint).

    Raises:
        ValueError: there is no model, or the weights do not fit the architecture in config.json.
    """
    return _to_eval_device(_load_folder(Path(folder)).model)


def load_pretrained(
    name_or_path: str | Path, device: torch.device | str | None = None, hub: HubOptions = DEFAULT_OPTIONS
) -> Pretrained:
    """Load a model in evaluation mode by name or path.

    Args:
        name_or_path: a folder as in `from_pretrained`, a released .ckpt or .safetensors, a name of
            model.published.NAMES, or an id of the Hugging Face Hub, `user/name`.
        device: None: the accelerator if the machine has one, otherwise the CPU.
        hub: how files are downloaded.

    Raises:
        ValueError: no such model, it cannot be downloaded, or its weights do not fit.
    """
    path = locate(name_or_path, hub)
    if path.is_dir():
        return _to_device(_load_folder(path), device)
    model, config, _, _, missing = convert_file(str(path), NUM_HEADS.get(str(name_or_path), 0))
    if missing:
        raise ValueError(f"{path}: {len(missing)} weights are missing, such as {missing[0]}")
    return _to_device(Pretrained(model, config, path), device)


def _load_folder(folder: Path) -> Pretrained:
    folder = resolve_checkpoint(folder)
    config, inputs = _read_config(folder)
    model, file = build_random_init(config, inputs, seed=0), select_weights_file(folder)
    try:
        model.load_state_dict(load_file(file), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(
            f"checkpoint={folder}: {file.name} does not fit config.json: {' '.join(str(error).split())[:300]}"
        ) from None
    return Pretrained(model.eval(), config, folder)


def _to_device(loaded: Pretrained, device: torch.device | str | None) -> Pretrained:
    """Raises ValueError: no such device on this machine."""
    if device is None:
        return loaded._replace(model=_to_eval_device(loaded.model))
    try:
        return loaded._replace(model=loaded.model.to(device).eval())
    except (RuntimeError, AssertionError) as error:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        raise ValueError(
            f"device={device}: {str(error).splitlines()[0][:200]}; this machine has "
            f"{f'{accelerator.type} and ' if accelerator else ''}cpu"
        ) from None


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
    if folder.is_dir() and (newest := newest_checkpoint(folder / "checkpoints")):
        return newest
    is_file = "a file, not a folder" if folder.is_file() else "no model found"
    raise ValueError(
        f"{key}={folder}: {is_file}; give a run folder, a checkpoint, or a folder with config.json and "
        "model.safetensors"
    )
