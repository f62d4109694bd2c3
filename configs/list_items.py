"""Items of a list addressed by name: `stream.sources.audioset.weight=2` beside `stream.sources.0.weight=2`.

A name or a number that follows the last item adds an item: `stream.sources.mine.shards=DIR`.
"""

import typing
from typing import Any

from configs.schema_check import field_types, is_section


def number_named_items(kind: Any, layer: Any, settings: Any) -> Any:
    """`layer` with the names of list items replaced by their numbers in `settings`.

    Args:
        kind: type of `layer` by the schema; lists of dataclasses that have a field `name` are searched.
        layer: plain settings of one origin, possibly invalid.
        settings: plain settings before this layer, which hold the names of existing items.
    """
    if not isinstance(layer, dict):
        return layer
    if is_section(kind):
        types, known = field_types(kind), settings if isinstance(settings, dict) else {}
        return {key: number_named_items(types.get(key), value, known.get(key)) for key, value in layer.items()}
    item = typing.get_args(kind)[0] if typing.get_origin(kind) is list else None
    if not is_section(item) or "name" not in field_types(item) or not all(isinstance(v, dict) for v in layer.values()):
        return layer
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in settings or ()]
    numbered: dict[Any, Any] = {}
    for key, value in layer.items():
        if str(key).isdigit():
            numbered[key] = value
        elif key in names:
            numbered[names.index(key)] = value
        else:
            numbered[len(names)] = {"name": key, **value}
            names.append(key)
    return numbered
