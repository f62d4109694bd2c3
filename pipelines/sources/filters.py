"""Which rows of a source are wanted: without the clips of evaluation sets, with certain labels only."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from configs.errors import UsageError
from pipelines.manifest import Clip, Rejected


def filtered(
    rows: Iterable[Clip | Rejected], exclude: Sequence[str], labels: Sequence[str]
) -> Iterator[Clip | Rejected]:
    """The rows that are wanted; rows that are no clips are kept, for the ledger.

    Args:
        rows: what a source yields.
        exclude: files of ids to leave out, one a line (what follows a comma is not read, nor are lines that start with #), so AudioSet's own tables do.
            The id of a clip leaves out that clip; an id without the time at its end leaves out all clips of that video.
        labels: keep clips that have one of these; empty: all.

    Raises:
        UsageError: a file of ids is not there or empty; after the last row: a label that no row has.
    """
    left_out = frozenset().union(*map(read_ids, exclude))
    wanted, met, others = set(labels), set[str](), set[str]()
    for row in rows:
        if isinstance(row, Clip):
            if left_out and is_excluded(row.id, left_out):
                continue
            if wanted:
                found = wanted.intersection(row.labels)
                met |= found
                if not found:
                    others.update(row.labels)
                    continue
        yield row
    for label in sorted(wanted - met):
        near = difflib.get_close_matches(label, others | met, n=3, cutoff=0.5)
        raise UsageError(
            f"labels: no row has the label {label!r}" + (f"; near it are {', '.join(map(repr, near))}" if near else "")
        )


def is_excluded(row_id: str, left_out: frozenset[str]) -> bool:
    """Whether a clip is among ids to leave out, itself or its video."""
    video, _, start_ms = row_id.rpartition("_")
    return row_id in left_out or (video in left_out and start_ms.isdecimal())


def read_ids(file: str) -> frozenset[str]:
    """The ids in a file, one a line.

    Raises:
        UsageError: it is not there, cannot be read or has none.
    """
    try:
        if not Path(file).is_file():
            raise UsageError(f"exclude={file!r} cannot be read: there is no such file, or it is none")
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"exclude={file!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    ids = frozenset(line.partition(",")[0].strip().strip('"') for line in lines if not line.startswith("#")) - {""}
    if not ids:
        raise UsageError(f"exclude={file!r} has no ids in it; wanted one a line")
    return ids
