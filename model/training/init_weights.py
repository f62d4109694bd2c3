"""Weights a fresh run begins with: those of another run or model, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from model.hub import read_tensors, resolve_checkpoint, select_weights_file
from model.training.optim import is_under


def load_init_weights(model: nn.Module, init_checkpoint: str, init_exclude: Sequence[str]) -> Path:
    """Load all weights and buffers but those of `init_exclude`, and nothing else of a run: no moments, no step.

    Args:
        init_checkpoint: run, step or from_pretrained folder.
        init_exclude: parameters of these names, or below them, stay as they are.

    Returns:
        The file that was read.

    Raises:
        ValueError: no model there or a damaged one, a name in `init_exclude` that the model does not have; weights missing, too many or of another
            shape.
    """
    file, own = select_weights_file(resolve_checkpoint(Path(init_checkpoint), "init_checkpoint")), model.state_dict()
    try:
        stored = read_tensors(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"init_checkpoint={file} cannot be read ({error})") from None
    for part in init_exclude:
        if not any(is_under(name, part) for name in own):
            raise ValueError(
                f"init_exclude: the model has no {part}; it has {', '.join(sorted({name.partition('.')[0] for name in own}))} and parts of these"
            )
    wanted, found = (
        {name: tensor for name, tensor in tensors.items() if not any(is_under(name, part) for part in init_exclude)}
        for tensors in (own, stored)
    )
    wrong = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    wrong += [f"{name} has no place in the model" for name in found.keys() - wanted.keys()]
    wrong += [
        f"{name} is {list(found[name].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted.keys() & found.keys()
        if found[name].shape != wanted[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"init_checkpoint={init_checkpoint}: {'; '.join(sorted(wrong)[:3])}{more}; what may differ has to be named in init_exclude"
        )
    model.load_state_dict(found, strict=False)
    return file
