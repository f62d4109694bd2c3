"""Filters for the rows of a source: excluded ids (for example of evaluation sets), and required labels."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from configs.errors import UsageError
from pipelines.manifest import Clip, Rejected


def filtered(
    rows: Iterable[Clip | Rejected], exclude: Sequence[str], labels: Sequence[str]
) -> Iterator[Clip | Rejected]:
    """Filter rows; rejected rows pass, for the list of rejected clips.

    Args:
        rows: the rows of a source.
        exclude: files of ids to exclude, one id a line; text after a comma and lines that start with # are ignored, so
            the published tables of AudioSet work. The id of a clip excludes that clip; an id without the time at its
            end excludes all clips of that video.
        labels: keep clips that have one of these labels; empty keeps all.

    Raises:
        UsageError: a file of ids does not exist or is empty; after the last row: no row has one of the labels.
    """
    excluded = frozenset().union(*map(read_ids, exclude))
    required, found = set(labels), set[str]()
    for row in rows:
        if isinstance(row, Clip):
            if excluded and is_excluded(row.id, excluded):
                continue
            found.update(row.labels)
            if required and required.isdisjoint(row.labels):
                continue
        yield row
    for label in sorted(required - found):
        similar = ", ".join(map(repr, difflib.get_close_matches(label, found, n=3, cutoff=0.5)))
        hint = f"; similar labels are {similar}" if similar else ""
        raise UsageError(f"labels: no row has the label {label!r}{hint}")


def is_excluded(row_id: str, excluded: frozenset[str]) -> bool:
    """Whether the id of a clip, or of its video, is among the excluded ids."""
    video, _, start_ms = row_id.rpartition("_")
    return row_id in excluded or (video in excluded and start_ms.isdecimal())


def read_ids(file: str) -> frozenset[str]:
    """Read a file of ids, one a line.

    Raises:
        UsageError: the file does not exist, cannot be read or contains no id.
    """
    try:
        if not Path(file).is_file():
            raise UsageError(f"exclude={file!r} cannot be read: no such file")
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"exclude={file!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    ids = frozenset(line.partition(",")[0].strip().strip('"') for line in lines if not line.startswith("#")) - {""}
    if not ids:
        raise UsageError(f"exclude={file!r} contains no ids; expected one id a line")
    return ids
