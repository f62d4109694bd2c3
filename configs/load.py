"""Settings from three places, later ones winning: the schema's defaults, a YAML file (`config=PATH`), the command line (`key=value`)."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.errors import UsageError


def load(schema: type, arguments: Sequence[str] = (), text: str = "") -> Any:
    """Build the settings of a command.

    Args:
        schema: dataclass from configs.schema.
        arguments: `key=value` strings; `config=PATH` names the YAML file; nested keys use dots, list items their number.
        text: YAML settings below those files, such as `to_yaml` wrote.

    Returns:
        An instance of `schema` (plain dataclasses, no OmegaConf objects).

    Raises:
        UsageError: a key that is not in the schema, a value of the wrong type or out of its range, a missing or broken file, an argument given twice.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    merged = OmegaConf.structured(schema)
    seen: dict[str, str] = {}
    for argument in arguments:
        key = argument.partition("=")[0]
        if key in seen:
            raise UsageError(f"{key} is given twice on the command line: {seen[key]} and {argument}")
        seen[key] = argument
    layers = [("stored settings", OmegaConf.create(text))] if text else []
    layers += [(path, _read_yaml(path)) for path in (a.partition("=")[2] for a in arguments if a.startswith("config="))]
    for argument in arguments:
        if not argument.startswith("config="):
            layers.append(("the command line", _parse_argument(schema, argument)))
    for origin, layer in layers:
        try:
            for key in _leaf_keys(layer):
                _check_list(_check_key(schema, key, origin), OmegaConf.select(layer, key) if key else None, key, origin)
            merged = _merge(merged, layer)
        except UsageError:
            raise
        except (OmegaConfBaseException, ValueError) as error:
            key = getattr(error, "full_key", None) or next(iter(_leaf_keys(layer)), "")
            raise UsageError(f"{key}: {str(error).splitlines()[0]} (from {origin})") from None
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UsageError(f"{getattr(error, 'full_key', None) or 'settings'}: {str(error).splitlines()[0]}") from None
    _check_ranges(config)
    return config


def to_yaml(config: Any) -> str:
    """The resolved settings as YAML that `load` reads back."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(config))


def diff_configs(old: Any, new: Any, ignore: Sequence[str] = ()) -> list[str]:
    """Where two settings differ, as `key: old -> new`, without the keys in `ignore` and those below them."""
    flat_old, flat_new = dict(_values(old)), dict(_values(new))
    differing = [
        key
        for key in sorted(flat_old.keys() | flat_new.keys())
        if flat_old.get(key, "unset") != flat_new.get(key, "unset")
    ]
    kept = [key for key in differing if not any(key == i or key.startswith(i + ".") for i in ignore)]
    return [f"{key}: {flat_old.get(key, 'unset')} -> {flat_new.get(key, 'unset')}" for key in kept]


def format_help(schema: type) -> str:
    """The keys of a command as a table: key, default, unit and meaning."""
    lines = ["keys (config=FILE.yaml sets many at once):"]
    rows = [(key, f) for key, f in _fields(schema)]
    width = max((len(key) for key, _ in rows), default=0)
    for key, f in rows:
        default = f.default if f.default is not dataclasses.MISSING else f.default_factory()
        shown = (
            ""
            if default in ("", [], {})
            else f" [{default}{' ' + f.metadata['unit'] if f.metadata.get('unit') else ''}]"
        )
        lines.append(f"  {key:<{width}}  {f.metadata.get('help', '')}{shown}")
    return "\n".join(lines)


def _read_yaml(path: str) -> Any:
    from omegaconf import OmegaConf

    file = Path(path)
    if not file.is_file():
        near = sorted(str(p) for p in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
        raise UsageError(f"config={path}: no such file" + (f"; there are {', '.join(near)}" if near else ""))
    try:
        layer = OmegaConf.load(file)
    except Exception as error:  # PyYAML's error classes have no common base that OmegaConf keeps
        raise UsageError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not OmegaConf.is_dict(layer) and len(layer):
        raise UsageError(f"{path} must hold key: value lines, not a list")
    return layer


def _parse_argument(schema: type, argument: str) -> Any:
    """A layer of one key. A text is taken as it is typed: `name=2024_06_01` is no number and `key=000012` not octal."""
    from omegaconf import OmegaConf

    key, _, value = argument.partition("=")
    try:
        if _check_key(schema, key, "the command line") is str:
            layer = OmegaConf.create({})
            value = str(Path(value).expanduser()) if value.startswith("~/") else value  # shells leave it after key=
            OmegaConf.update(layer, key, value.replace("${", r"\${"))  # it is no reference to another setting
            return layer
        return OmegaConf.from_dotlist([argument + "''" if argument.endswith("=") else argument])
    except UsageError:
        raise
    except Exception as error:  # as above
        raise UsageError(f"{argument}: {' '.join(str(error).split())} (from the command line)") from None


def _merge(base: Any, layer: Any, prefix: str = "") -> Any:
    """Merge a layer; `list.0.key=value` changes an item of a list that an earlier layer gave."""
    from omegaconf import OmegaConf

    if OmegaConf.is_dict(layer):
        for key in list(layer):
            node = OmegaConf.select(base, str(key))
            if OmegaConf.is_list(node) and OmegaConf.is_dict(layer[key]):
                for number, item in layer[key].items():
                    if not str(number).isdigit() or int(number) >= len(node):
                        raise UsageError(
                            f"{prefix}{key}.{number}: no such item, the list has {len(node)} (from the command line)"
                        )
                    node[int(number)] = (
                        OmegaConf.merge(node[int(number)], item) if OmegaConf.is_config(node[int(number)]) else item
                    )
                layer = OmegaConf.masked_copy(layer, [k for k in layer if k != key])
            elif OmegaConf.is_dict(node) and OmegaConf.is_dict(layer[key]):
                base[key] = _merge(node, layer[key], f"{prefix}{key}.")
                layer = OmegaConf.masked_copy(layer, [k for k in layer if k != key])
    return OmegaConf.merge(base, layer)


def _leaf_keys(layer: Any, prefix: str = "") -> Iterator[str]:
    from omegaconf import OmegaConf

    if OmegaConf.is_dict(layer) and len(layer):
        for key in layer:
            yield from _leaf_keys(layer._get_node(key), f"{prefix}{key}.")
    else:
        yield prefix.rstrip(".")


def _values(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(node):
        node = {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list) and any(map(dataclasses.is_dataclass, node))
        else None
    )
    if items is None:
        yield prefix.rstrip("."), node
        return
    for key, value in items:
        yield from _values(value, f"{prefix}{key}.")


def _fields(schema: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    hints = typing.get_type_hints(schema)
    for f in dataclasses.fields(schema):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from _fields(hints[f.name], f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, f
            if typing.get_origin(hints[f.name]) is list and dataclasses.is_dataclass(
                item := typing.get_args(hints[f.name])[0]
            ):
                yield from _fields(item, f"{prefix}{f.name}.N.")


def _check_ranges(config: Any, prefix: str = "") -> None:
    for f in dataclasses.fields(config):
        value, key = getattr(config, f.name), prefix + f.name
        for item, name in (
            [(value, key)]
            if not isinstance(value, list)
            else [(item, f"{key}.{number}") for number, item in enumerate(value)]
        ):
            if dataclasses.is_dataclass(item):
                _check_ranges(item, name + ".")
        least, most = f.metadata["min"], f.metadata["max"]
        if least is not None and not least <= value <= (math.inf if most is None else most):  # NaN is in no range
            raise UsageError(f"{key}={value} must be " + (f"{least} or more" if most is None else f"{least} to {most}"))


def _check_list(wanted: Any, value: Any, key: str, origin: str) -> None:
    """OmegaConf tells neither what a list lacks nor, of a list in a list, anything."""
    from omegaconf import OmegaConf

    if typing.get_origin(wanted) is not list:
        return
    of = typing.get_args(wanted)[0]
    if not OmegaConf.is_list(value):
        raise UsageError(f"{key}={value}: wanted a list, {key}=[{value}] (from {origin})")
    if not dataclasses.is_dataclass(of) and any(map(OmegaConf.is_config, value)):
        raise UsageError(f"{key}={value}: wanted a list of plain values, without lists in it (from {origin})")


def _check_key(schema: type, key: str, origin: str) -> Any:
    """Walk a dotted key through the schema to the type of its value; lists of dataclasses take a number, dicts take anything."""
    node: Any = schema
    parts = key.split(".") if key else []
    for depth, part in enumerate(parts):
        if typing.get_origin(node) is list:
            node = typing.get_args(node)[0]
            if part.isdigit():
                continue
        if typing.get_origin(node) is dict:
            return typing.Any
        if not dataclasses.is_dataclass(node):
            raise UsageError(f"{key}: {'.'.join(parts[:depth])} has no keys below it (from {origin})")
        hints = typing.get_type_hints(node)
        names = [f.name for f in dataclasses.fields(node)]
        if part not in names:
            near = difflib.get_close_matches(part, names, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"{key}: unknown key {part!r}{hint or '.'} Allowed here: {', '.join(names) or 'none'} (from {origin})"
            )
        node = hints[part]
    return node
