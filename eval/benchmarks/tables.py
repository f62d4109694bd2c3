"""Published tables, read with suspicion: CSV and JSON rows, names of files and numbers in them; what does not fit is told with its file and row."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import UsageError

Row = TypeVar("Row")

# What file systems allow, less room for what readers add (`_seg.png`).
_MAX_NAME_BYTES = 240


def find_table(key: str, root: Path, name: str, beside: str) -> Path:
    """The path of a table.

    Args:
        key: the setting that named the folder `root`.
        beside: what else belongs into it, for the error line.

    Raises:
        UsageError: it is not there.
    """
    path = root / name
    if not path.is_file():
        raise UsageError(f"{key}={root}: no {name} there; expected beside it are {beside}")
    return path


def csv_rows(
    path: Path, columns: Sequence[str], read: Callable[[dict[str, str]], Row], wanted: str = ""
) -> Iterator[Row]:
    """What `read` makes of each row below the header, in order.

    Args:
        columns: needed; others may be there.
        read: raises ValueError, KeyError or TypeError where a row does not fit.
        wanted: what a row looks like, for the error line; "": the columns.

    Raises:
        UsageError: a missing column, a row that does not fit, not a CSV file.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or [])]
            if missing:
                raise UsageError(
                    f"{path}: no column {', '.join(missing)}; there are {', '.join(reader.fieldnames or ['none'])}"
                )
            for row in reader:
                yield _read(row, read, f"{path}, line {reader.line_num}", wanted or f"a row has {', '.join(columns)}")
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a CSV file: {error}") from None


def json_rows(path: Path, wanted: str, read: Callable[[dict[str, Any]], Row]) -> Iterator[Row]:
    """What `read` makes of each object of a JSON list, in order.

    Args:
        wanted: what a row looks like, for the error line.
        read: raises ValueError, KeyError or TypeError where a row does not fit.

    Raises:
        UsageError: a row that does not fit, not a JSON list.
    """
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise UsageError(f"{path} is not a list of rows; a row is {wanted}")
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UsageError(f"{path}, row {place}: {str(row)[:50]} is not an object; a row is {wanted}")
        yield _read(row, read, f"{path}, row {place}", f"a row is {wanted}")


def validate_file_name(value: Any) -> str:
    """The name of a file in a folder of the set. Raises ValueError: empty, one that leads elsewhere, or longer than file systems allow."""
    if not isinstance(value, str) or not value.strip(".") or "/" in value or "\\" in value or "\0" in value:
        raise ValueError(f"{value!r} is not the name of a file")
    if len(os.fsencode(value)) > _MAX_NAME_BYTES:
        raise ValueError(
            f"{value[:50]!r}... of {len(value)} letters is not the name of a file (is a quote not closed?)"
        )
    return value


def finite(value: Any) -> float:
    """A number. Raises ValueError or TypeError: it is none, or not finite."""
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"{value!r} is not a finite number")
    return found


def _read(row: Any, read: Callable[[Any], Row], where: str, wanted: str) -> Row:
    try:
        return read(row)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UsageError(f"{where}: {type(error).__name__} {error}; {wanted}") from None
