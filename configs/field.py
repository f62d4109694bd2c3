"""`field()`: a dataclass field with a help text, a unit and a range."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar, overload

T = TypeVar("T")

# The largest seed that torch.Generator takes.
MAX_SEED = 2**63 - 1


@overload
def field(
    default: Callable[[], T], help: str, unit: str = "", min: float | None = None, max: float | None = None
) -> T: ...
@overload
def field(default: T, help: str, unit: str = "", min: float | None = None, max: float | None = None) -> T: ...
def field(default: object, help: str, unit: str = "", min: float | None = None, max: float | None = None) -> object:
    """A dataclass field that `--help` describes and `configs.load` validates.

    Args:
        default: the default value, or a class or function that makes it.
        help: what the setting does.
        unit: printed after the default.
        min, max: inclusive range of a number.
    """
    metadata = {"help": help, "unit": unit, "min": min, "max": max}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
