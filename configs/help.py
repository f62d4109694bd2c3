"""The table of settings that `--help` prints."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

from configs.schema_check import field_types, is_section


def format_help(schema: type) -> str:
    """One line for each key of a command: key, help text, {allowed values} and [default unit]."""
    rows = list(_fields(schema))
    width = max((len(key) for key, _, _ in rows), default=0)
    lines = ["keys (config=FILE.yaml sets many at once):"]
    for key, kind, f in rows:
        default = f.default_factory() if callable(f.default_factory) else f.default
        choices = f" {{{','.join(typing.get_args(kind))}}}" if typing.get_origin(kind) is typing.Literal else ""
        shown = "" if default in ("", [], {}) else f" [{' '.join(filter(None, (str(default), f.metadata['unit'])))}]"
        lines.append(f"  {key:<{width}}  {f.metadata['help']}{choices}{shown}")
    return "\n".join(lines)


def _fields(schema: type, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Key, type and field of every setting; sections of a schema are entered, items are `KEY.N` or `KEY.NAME`."""
    types = field_types(schema)
    for f in dataclasses.fields(schema):
        kind = types[f.name]
        if is_section(kind):
            yield from _fields(kind, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, kind, f
        if typing.get_origin(kind) in (list, dict) and is_section(item := typing.get_args(kind)[-1]):
            yield from _fields(item, f"{prefix}{f.name}.{'N' if typing.get_origin(kind) is list else 'NAME'}.")
