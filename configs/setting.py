"""How a setting is declared: a dataclass field that knows its meaning, unit and range."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(default: Any, meaning: str, unit: str = "", least: float | None = None, most: float | None = None) -> Any:
    """A dataclass field with its meaning, unit and range attached, for `--help` and for error lines; configs.load refuses what is out of range."""
    metadata = {"meaning": meaning, "unit": unit, "least": least, "most": most}
    if isinstance(default, (list, dict, type)):
        make = default if isinstance(default, type) else lambda: type(default)(default)
        return field(default_factory=make, metadata=metadata)
    return field(default=default, metadata=metadata)
