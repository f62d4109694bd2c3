"""metrics.json: what an evaluation found, for machines. Keys are stable, `task/variant/metric`; values 0 to 1."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from configs.atomic_write import atomic_open
from configs.errors import UsageError
from eval.results import Results

NAME = "metrics.json"


def write_metrics(results: Results, folder: Path) -> Path:
    """Values, intervals, counts, requirements, classes and where they come from; the file appears in `folder` whole or not at all. Returns its path."""
    content = {
        "metrics": dict(sorted(results.metrics.items())),
        "intervals": {key: list(ends) for key, ends in sorted(results.intervals.items())},
        "items": results.items,
        "requirements": [
            dataclasses.asdict(r) | {"value": None if math.isnan(r.value) else r.value} for r in results.requirements
        ],
        "per_class": results.per_class,
        "about": results.about,
    }
    with atomic_open(folder / NAME) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    return folder / NAME


def read_metrics(place: Path) -> dict[str, Any]:
    """What `write_metrics` wrote, from the file or the folder it lies in. Files from before there were intervals have none.

    Raises:
        UsageError: no such file, or not one of ours.
    """
    path = place
    try:
        path = place / NAME if place.is_dir() else place
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give a folder that eval.run wrote to, or its {NAME}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    parts = {
        "metrics": _is_number,
        "intervals": _is_interval,
        "items": _is_number,
        "about": lambda value: isinstance(value, str),
    }
    if not isinstance(content, dict) or "metrics" not in content:
        raise UsageError(f"{path} is none of ours: it has no object `metrics`")
    for part, fits in parts.items():
        values = content.setdefault(part, {})
        if not isinstance(values, dict):
            raise UsageError(f"{path}: `{part}` is not an object")
        wrong = next((key for key, value in values.items() if not fits(value)), None)
        if wrong is not None:
            raise UsageError(f"{path}: {part}, {wrong}: {str(values[wrong])[:50]!r} is not what eval.run writes there")
    return content


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
