"""Initial weights of a fresh run from another run or model, by name."""

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from model.hub import resolve_checkpoint, select_weights_file
from model.training.optim import is_under


def load_init_weights(model: nn.Module, init_checkpoint: str, init_exclude: Sequence[str]) -> Path:
    """Load all weights and buffers except `init_exclude`; optimizer moments and the step are not loaded.

    Args:
        init_checkpoint: run folder, checkpoint or from_pretrained folder.
        init_exclude: parameters and modules that keep their initial values.

    Returns:
        The file that was read.

    Raises:
        ValueError: no model there or a damaged one; a name in `init_exclude` that the model does not have; weights that
            are missing, superfluous or of another shape.
    """
    file = select_weights_file(resolve_checkpoint(Path(init_checkpoint), "init_checkpoint"))
    state = model.state_dict()
    try:
        stored = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"init_checkpoint={file} cannot be read ({error})") from None
    for part in init_exclude:
        if not any(is_under(name, part) for name in state):
            modules = ", ".join(sorted({name.partition(".")[0] for name in state}))
            raise ValueError(f"init_exclude={part}: no such parameter or module; the model has {modules}")
    expected, loaded = (
        {name: tensor for name, tensor in tensors.items() if not any(is_under(name, part) for part in init_exclude)}
        for tensors in (state, stored)
    )
    errors = [f"{name} is missing" for name in expected.keys() - loaded.keys()]
    errors += [f"{name} is not in the model" for name in loaded.keys() - expected.keys()]
    errors += [
        f"{name} has the shape {list(loaded[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected.keys() & loaded.keys()
        if loaded[name].shape != expected[name].shape
    ]
    if errors:
        more = f" and {len(errors) - 3} more" if len(errors) > 3 else ""
        raise ValueError(
            f"init_checkpoint={init_checkpoint}: {'; '.join(sorted(errors)[:3])}{more}; "
            "name what may differ in init_exclude"
        )
    model.load_state_dict(loaded, strict=False)
    return file
