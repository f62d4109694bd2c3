"""Labels and captions of files in a folder: metadata.csv or metadata.jsonl, as in image and audio folders of datasets.

A row names a file in `file_name`, relative to the folder of the table; its other columns are all optional. `label` is
one label; `labels` are several: a list in JSON, otherwise separated by ; or | or, where there is neither, by commas.
`text` is the caption. Tables are UTF-8; CSV may be separated by commas, semicolons or tabs. Other columns are ignored.
"""

import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from configs.errors import UsageError

NAMES = ("metadata.csv", "metadata.jsonl")


class Metadata(NamedTuple):
    """Labels and caption of a file; both may be empty."""

    labels: tuple[str, ...]
    text: str


def read_metadata(table: Path) -> dict[str, Metadata]:
    """Read a table.

    Returns:
        The metadata of each file by its path relative to the folder of the table.

    Raises:
        UsageError: the table cannot be read, has no column file_name or lists a file twice, or labels are not texts.
    """
    found: dict[str, Metadata] = {}
    try:
        text = table.read_text(encoding="utf-8-sig")
        for row in _json_rows(text) if table.suffix == ".jsonl" else _csv_rows(text):
            name = row.get("file_name")
            if not isinstance(name, str) or not name:
                raise ValueError(f"wanted a file_name; found {str(row)[:200]}")
            path = str(PurePosixPath(name.replace("\\", "/")))
            if path in found:
                raise ValueError(f"{path!r} is listed twice")
            found[path] = Metadata(_labels(row), str(row.get("text") or ""))
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UsageError(f"{table}: {getattr(error, 'strerror', None) or error}") from None
    return found


def spellings(counts: Counter[str]) -> Iterator[str]:
    """Messages about labels that differ only in case, spaces, `_`, `-` or Unicode form, with their numbers of clips."""
    groups: dict[str, list[str]] = {}
    for label in sorted(counts):
        plain = re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", label).casefold())
        groups.setdefault(plain, []).append(f"{label!r} ({counts[label]} clips)")
    for group in groups.values():
        if len(group) > 1:
            yield f"labels {' and '.join(group)} differ in their spelling only; they are kept as {len(group)} labels"


def _csv_rows(text: str) -> Iterator[dict[str, Any]]:
    header = text.partition("\n")[0]
    separator = next((mark for mark in ",;\t" if mark in header), ",")
    rows = csv.DictReader(text.splitlines(keepends=True), delimiter=separator, skipinitialspace=True, strict=True)
    if "file_name" not in (rows.fieldnames or ()):
        raise ValueError(f"no column file_name; it has {', '.join(rows.fieldnames or ())[:200] or 'none'}")
    yield from rows


def _json_rows(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.strip():
            row = json.loads(line)
            yield row if isinstance(row, dict) else {"line": line}


def _labels(row: dict[str, Any]) -> tuple[str, ...]:
    label, labels = row.get("label"), row.get("labels")
    if isinstance(labels, str) and labels.lstrip()[:1] == "[":
        labels = json.loads(labels)
    elif isinstance(labels, str):
        labels = labels.split(next((mark for mark in ";|" if mark in labels), ","))
    some = [*([] if label is None else label if isinstance(label, list) else [label]), *(labels or [])]
    if wrong := [item for item in some if not isinstance(item, (str, int))]:
        raise ValueError(f"labels must be texts; found {str(wrong[0])[:200]}")
    return tuple(dict.fromkeys(text for text in (str(item).strip() for item in some) if text))
