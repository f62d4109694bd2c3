"""Weights a fresh run begins with: those of another run or model, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from configs.command import UsageError
from model.hub import model_folder, read_tensors, weights_file
from model.training.optim import is_below


def take_weights(model: nn.Module, init_from: str, init_except: Sequence[str]) -> Path:
    """Load all weights and buffers but those of `init_except`, and nothing else of a run: no moments, no step.

    Args:
        init_from: run, step or from_pretrained folder.
        init_except: parameters of these names, or below them, stay as they are.

    Returns:
        The file that was read.

    Raises:
        UsageError: no model there or a damaged one, a name in `init_except` that the model does not have; weights missing, too many or of another
            shape.
    """
    file, own = weights_file(model_folder(Path(init_from), "init_from")), model.state_dict()
    try:
        stored = read_tensors(file)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"init_from={file} cannot be read ({error})") from None
    for part in init_except:
        if not any(is_below(name, part) for name in own):
            raise UsageError(f"init_except: the model has no {part}; it has {', '.join(sorted({name.partition('.')[0] for name in own}))} and parts of these")
    wanted, found = ({name: tensor for name, tensor in tensors.items() if not any(is_below(name, part) for part in init_except)} for tensors in (own, stored))
    wrong = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    wrong += [f"{name} has no place in the model" for name in found.keys() - wanted.keys()]
    wrong += [
        f"{name} is {list(found[name].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted.keys() & found.keys()
        if found[name].shape != wanted[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UsageError(f"init_from={init_from}: {'; '.join(sorted(wrong)[:3])}{more}; what may differ has to be named in init_except")
    model.load_state_dict(found, strict=False)
    return file
