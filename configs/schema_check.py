"""Checks of settings against their schema: keys, lists, allowed values and ranges."""

import dataclasses
import difflib
import math
import typing
from typing import Any, TypeGuard

from configs.errors import UsageError


class UnknownKeyError(UsageError):
    """A key that the schema does not have."""

    def __init__(self, key: str, name: str, allowed: list[str], origin: str) -> None:
        near = difflib.get_close_matches(name, allowed, n=1)
        hint = f", did you mean {near[0]}?" if near else "."
        super().__init__(
            f"{key}: unknown key {name!r}{hint} Allowed here: {', '.join(allowed) or 'none'} (from {origin})"
        )
        self.key = key


def is_section(kind: object) -> TypeGuard[type]:
    """Whether a type is a dataclass, which has settings of its own."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def is_text(kind: object) -> bool:
    """Whether the values of a type are texts: `str`, or a choice of names."""
    return kind is str or typing.get_origin(kind) is typing.Literal


def field_types(schema: type) -> dict[str, Any]:
    """The type of each field of a dataclass."""
    hints = typing.get_type_hints(schema)
    return {f.name: hints[f.name] for f in dataclasses.fields(schema)}


def type_of(schema: type, key: str) -> Any:
    """The type of a dotted key; None if the schema does not have it."""
    kind: Any = schema
    for name in key.split("."):
        if typing.get_origin(kind) in (list, dict):
            kind = typing.get_args(kind)[-1]
        else:
            kind = field_types(kind).get(name) if is_section(kind) else None
    return kind


def check_layer(kind: Any, value: Any, key: str, origin: str, origins: dict[str, str]) -> None:
    """Check the settings of one origin before OmegaConf merges them and converts their types.

    Args:
        kind: type of `value` by the schema.
        value: plain dicts, lists and scalars; `{number: item}` changes single items of a list.
        key: dotted key of `value`, empty at the top.
        origin: where the settings come from, for messages.
        origins: gets the origin of each scalar by its dotted key.

    Raises:
        UsageError: an unknown key, a list or scalar in place of the other, or a value that is not allowed.
    """
    if isinstance(value, str) and value.startswith("${"):  # a reference to another setting, which OmegaConf resolves
        origins[key] = origin
        return
    prefix, shown = (f"{key}.", f"{key}={value}") if key else ("", str(value))
    if is_section(kind):
        if not isinstance(value, dict):
            raise UsageError(f"{shown}: must be `key: value` settings (from {origin})")
        types = field_types(kind)
        for name, item in value.items():
            if name not in types:
                raise UnknownKeyError(f"{prefix}{name}", str(name), list(types), origin)
            check_layer(types[name], item, f"{prefix}{name}", origin, origins)
    elif typing.get_origin(kind) is list:
        is_items = isinstance(value, dict) and all(str(number).isdigit() for number in value)
        if not is_items and not isinstance(value, list):
            raise UsageError(f"{shown}: must be a list, {key}=[{value}] (from {origin})")
        for number, item in value.items() if is_items else enumerate(value):
            check_layer(typing.get_args(kind)[0], item, f"{prefix}{number}", origin, origins)
    elif typing.get_origin(kind) is dict and isinstance(value, dict):
        for name, item in value.items():
            check_layer(typing.get_args(kind)[1], item, f"{prefix}{name}", origin, origins)
    elif isinstance(value, dict):
        raise UsageError(f"{prefix}{next(iter(value), '')}: {key} has no keys below it (from {origin})")
    elif isinstance(value, list):
        raise UsageError(f"{shown}: must be a single value, not a list (from {origin})")
    else:
        _check_choice(kind, value, key, f" (from {origin})")
        origins[key] = origin


def check_choices(config: Any, prefix: str) -> None:
    """Check the `Literal` fields of a dataclass that was made without `configs.load`.

    Args:
        prefix: dotted key of the dataclass, for the message, such as `model.`.

    Raises:
        UsageError: a value that is not allowed.
    """
    for name, kind in field_types(type(config)).items():
        _check_choice(kind, getattr(config, name), prefix + name)


def _check_choice(kind: Any, value: Any, key: str, origin: str = "") -> None:
    if typing.get_origin(kind) is typing.Literal and value not in typing.get_args(kind):
        raise UsageError(f"{key}={value}: allowed are {', '.join(typing.get_args(kind))}{origin}")


def check_ranges(config: Any, origins: dict[str, str], prefix: str = "") -> None:
    """Check the numbers of a dataclass, and of dataclasses in it, against the `min` and `max` of their fields.

    Raises:
        UsageError: a number out of range, or NaN.
    """
    for f in dataclasses.fields(config):
        key, value = prefix + f.name, getattr(config, f.name)
        items = [(key, value)] if not isinstance(value, list) else [(f"{key}.{n}", v) for n, v in enumerate(value)]
        for name, item in items:
            if dataclasses.is_dataclass(item):
                check_ranges(item, origins, f"{name}.")
        low, high = f.metadata["min"], f.metadata["max"]
        if low is not None and not low <= value <= (math.inf if high is None else high):
            allowed = f"{low} or more" if high is None else f"{low} to {high}"
            raise UsageError(f"{key}={value} must be {allowed} (from {origins.get(key, 'the defaults')})")
