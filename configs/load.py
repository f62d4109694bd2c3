"""Loads settings: schema defaults, overridden by a YAML file (`config=PATH`), overridden by the command line."""

import dataclasses
import re
import typing
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import UsageError
from configs.list_items import expand_short_forms, is_single_text
from configs.package_names import ROOT
from configs.schema_check import UnknownKeyError, check_layer, check_ranges, is_text, type_of

T = TypeVar("T")
COMMAND_LINE = "the command line"
_WRONG_TYPE = re.compile(
    r"Value '(?P<value>.*)' "
    r"(of type .* could not be converted to (?P<kind>Integer|Float)|is not a valid (?P<bool>bool))"
)
_TYPES = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}


def load(schema: type[T], arguments: Sequence[str] = ()) -> T:
    """The settings of a command.

    Args:
        schema: dataclass of configs.schema.
        arguments: `key=value` strings, the last one of a key wins; `config=PATH` names a YAML file (see
            `find_config`); nested keys are joined with dots, and items of a list have their number or name
            (see `configs.list_items`).

    Returns:
        An instance of `schema`: plain dataclasses, without OmegaConf objects.

    Raises:
        UsageError: an unknown key, a value of the wrong type or out of its range, or a missing or invalid file.
    """
    paths = [argument.partition("=")[2] for argument in arguments if argument.partition("=")[0] == "config"]
    layers = [(path, _parse_yaml(find_config(path).read_bytes(), path)) for path in paths[-1:]]
    others = (argument for argument in arguments if argument.partition("=")[0] != "config")
    return _merge(schema, layers + [(COMMAND_LINE, _parse_argument(schema, argument)) for argument in others])


def load_stored(schema: type[T], stored: str | dict[str, Any], origin: str) -> T:
    """The settings that a run or an exported model stored.

    Args:
        schema: dataclass of configs.schema.
        stored: YAML that `to_yaml` wrote, or a dict as of `dataclasses.asdict`.
        origin: file that stores them, for messages.

    Raises:
        UsageError: settings of an old version, which had other keys, or invalid ones.
    """
    try:
        layer = _parse_yaml(stored.encode(), origin) if isinstance(stored, str) else stored
        return _merge(schema, [(origin, layer)])
    except UnknownKeyError as error:
        raise UsageError(
            f"{origin} was written by a version before the settings were renamed (first unknown key: {error.key}): "
            "train anew or use commit 41bd2f4"
        ) from None


def to_yaml(config: Any) -> str:
    """Resolved settings as YAML that `load` and `load_stored` read."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(config))


def diff_configs(old: Any, new: Any, ignore: Sequence[str] = ()) -> list[str]:
    """The differences between two settings as `key: old -> new`, without the keys in `ignore` and keys below them."""
    flat_old, flat_new = dict(flatten(old)), dict(flatten(new))
    pairs = {key: (flat_old.get(key, "unset"), flat_new.get(key, "unset")) for key in sorted(flat_old | flat_new)}
    return [
        f"{key}: {a} -> {b}"
        for key, (a, b) in pairs.items()
        if a != b and not any(f"{key}.".startswith(f"{ignored}.") for ignored in ignore)
    ]


def find_config(path: str, key: str = "config") -> Path:
    """A YAML file by its path from the current folder or else from the folder that holds the packages of the project.

    Args:
        key: the setting that names it, for the message.

    Raises:
        UsageError: no such file; the message lists the files that exist.
    """
    candidates = Path(path), ROOT / path
    for file in candidates:
        if file.is_file():
            return file
    siblings = (sorted((file if file.is_dir() else file.parent).glob("*.yaml")) for file in candidates)
    shipped = [file.relative_to(ROOT) for file in sorted(ROOT.glob("configs/*/*.yaml"))]
    available = ", ".join(map(str, next(filter(None, siblings), shipped)))
    problem = "is a folder, not a file" if any(map(Path.is_dir, candidates)) else "no such file"
    raise UsageError(f"{key}={path}: {problem}; available: {available or 'none'}")


def _parse_yaml(text: bytes, origin: str) -> Any:
    """Plain dicts and lists, references to other settings unresolved."""
    from omegaconf import OmegaConf

    try:
        layer = OmegaConf.create(text.decode())
    except Exception as error:  # errors of PyYAML, OmegaConf and the UTF-8 decoder have no common base class
        raise UsageError(f"{origin} is not readable YAML: {' '.join(str(error).split())}") from None
    if not OmegaConf.is_dict(layer):
        raise UsageError(f"{origin} must contain `key: value` lines, not a list")
    return OmegaConf.to_container(layer)


def _parse_argument(schema: type, argument: str) -> Any:
    """`a.b=value` as {a: {b: value}}. A text is taken literally: name=2024_06_01 is not a number."""
    from omegaconf import OmegaConf

    key, _, text = argument.partition("=")
    kind = type_of(schema, key)
    is_list_of_texts = typing.get_origin(kind) is list and is_text(typing.get_args(kind)[0])
    if is_text(kind) or (is_list_of_texts and text[:1] != "[" and is_single_text(text)):
        text = str(Path(text).expanduser()) if text.startswith("~/") else text  # shells do not expand it after key=
        value: Any = text.replace("${", r"\${")  # not a reference to another setting
    else:
        try:
            layer: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text or repr('')}"]))
        except Exception as error:  # see _parse_yaml
            raise UsageError(f"{argument}: {' '.join(str(error).split())} (from {COMMAND_LINE})") from None
        value = layer["value"]
    return reduce(lambda inner, name: {name: inner}, reversed(key.split(".")), value)


def _merge(schema: type[T], layers: Sequence[tuple[str, Any]]) -> T:
    """Defaults and layers, each a pair of origin and plain settings, as an instance of the schema."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    defaults, origins = OmegaConf.structured(schema), dict[str, str]()
    settings: Any = OmegaConf.to_container(defaults)
    for origin, layer in layers:
        layer = expand_short_forms(schema, layer, settings)
        check_layer(schema, layer, "", origin, origins)
        settings = _override(settings, layer, "", origin)
    try:
        result = OmegaConf.to_object(OmegaConf.merge(defaults, settings))
    except OmegaConfBaseException as error:
        key = (getattr(error, "full_key", None) or "settings").replace("[", ".").replace("]", "")
        # Within an item of a list, OmegaConf reports the last part of the key only.
        known = (origin for name, origin in origins.items() if f".{name}".endswith(f".{key}"))
        raise UsageError(f"{_describe(key, str(error))} (from {next(known, 'the defaults')})") from None
    check_ranges(result, origins)
    return typing.cast(T, result)


def _describe(key: str, message: str) -> str:
    """An error of OmegaConf about a key, in plain words where the value has the wrong type."""
    if found := _WRONG_TYPE.match(message):
        return f"{key}={found['value']}: must be {_TYPES[found['kind'] or found['bool']]}"
    return f"{key}: {message.splitlines()[0]}"


def _override(base: Any, layer: Any, key: str, origin: str) -> Any:
    """`base` with the settings of a layer; `{number: item}` changes items of a list, other lists are replaced."""
    if not isinstance(layer, dict):
        return layer
    is_items = layer and all(str(number).isdigit() for number in layer)
    if isinstance(base, list) or (base is None and is_items):  # None: a list that an item of a list does not set
        items = list(base or ())
        for number, item in layer.items():
            if int(number) > len(items):
                raise UsageError(f"{key}{number}: no such item, the list has {len(items)} (from {origin})")
            items += [None] * (int(number) == len(items))
            items[int(number)] = _override(items[int(number)], item, f"{key}{number}.", origin)
        return items
    known = base if isinstance(base, dict) else {}
    return known | {name: _override(known.get(name), item, f"{key}{name}.", origin) for name, item in layer.items()}


def flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every setting; a list is one value unless it contains dataclasses."""
    if dataclasses.is_dataclass(node):
        node = {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
    elif isinstance(node, list) and any(map(dataclasses.is_dataclass, node)):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        yield prefix.rstrip("."), node
        return
    for key, value in node.items():
        yield from flatten(value, f"{prefix}{key}.")
