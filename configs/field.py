"""How a setting is declared: a dataclass field that knows its meaning, unit and range."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(default: Any, help: str, unit: str = "", min: float | None = None, max: float | None = None) -> Any:
    """A dataclass field with its meaning, unit and range attached, for `--help` and for error lines; configs.load refuses what is out of range."""
    metadata = {"help": help, "unit": unit, "min": min, "max": max}
    if isinstance(default, (list, dict, type)):
        make = default if isinstance(default, type) else lambda: type(default)(default)
        return field(default_factory=make, metadata=metadata)
    return field(default=default, metadata=metadata)
