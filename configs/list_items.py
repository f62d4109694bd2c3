"""Short forms of lists in settings.

Items addressed by name: `stream.sources.audioset.weight=2` beside `stream.sources.0.weight=2`. A name or a number that
follows the last item adds an item: `stream.sources.mine.shards=DIR`. One text in place of a list of texts is its only
item: `benchmarks=retrieval`.
"""

import typing
from typing import Any

from configs.schema_check import field_types, is_section, is_text


def expand_short_forms(kind: Any, layer: Any, settings: Any) -> Any:
    """`layer` with the names of list items replaced by their numbers in `settings`, and texts by lists of one.

    Args:
        kind: type of `layer` by the schema; lists of dataclasses that have a field `name` are searched.
        layer: plain settings of one origin, possibly invalid.
        settings: plain settings before this layer, which hold the names of existing items.
    """
    item = typing.get_args(kind)[0] if typing.get_origin(kind) is list else None
    if isinstance(layer, list) and is_section(item):
        return [expand_short_forms(item, value, None) for value in layer]
    if is_text(item) and is_single_text(layer):
        return [layer] if layer else []
    if not isinstance(layer, dict):
        return layer
    if is_section(kind):
        types, known = field_types(kind), settings if isinstance(settings, dict) else {}
        return {key: expand_short_forms(types.get(key), value, known.get(key)) for key, value in layer.items()}
    if not is_section(item) or "name" not in field_types(item) or not all(isinstance(v, dict) for v in layer.values()):
        return layer
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in settings or ()]
    numbered: dict[Any, Any] = {}
    for key, entry in layer.items():
        value = expand_short_forms(item, entry, None)
        if str(key).isdigit():
            numbered[key] = value
        elif key in names:
            numbered[names.index(key)] = value
        else:
            numbered[len(names)] = {"name": key, **value}
            names.append(key)
    return numbered


def is_single_text(value: Any) -> bool:
    """Whether a value is one text, not several with commas nor a reference to another setting."""
    return isinstance(value, str) and not value.startswith("${") and "," not in value
