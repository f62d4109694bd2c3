"""Check names and shapes of stored weights against a model."""

from collections.abc import Iterable, Mapping

from torch import Tensor


def check_weights(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor], optional: Iterable[str] = ()) -> None:
    """Check that weights are exactly the expected ones.

    Args:
        stored: weights by name.
        expected: weights of the model, for their names and shapes.
        optional: names of `expected` that need not be stored.

    Raises:
        ValueError: missing or unexpected names, or other shapes; in one line.
    """
    other_shapes = [
        f"{name} {list(stored[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected
        if name in stored and stored[name].shape != expected[name].shape
    ]
    faults = {
        "missing": [name for name in expected if name not in stored and name not in set(optional)],
        "unexpected": [name for name in stored if name not in expected],
        "other shapes": other_shapes,
    }
    parts = [f"{kind}: {_shorten(names)}" for kind, names in faults.items() if names]
    if parts:
        raise ValueError("; ".join(parts))


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
