"""Filters for the rows of a source: excluded ids (for example of evaluation sets), and required labels."""

import difflib
from collections.abc import Iterable, Iterator, Sequence

from configs.errors import UsageError
from pipelines.manifest import Clip, Rejected
from pipelines.sources.exclude_lists import ExcludeLists


def filtered(
    rows: Iterable[Clip | Rejected], exclude: Sequence[str], labels: Sequence[str]
) -> Iterator[Clip | Rejected]:
    """Filter rows; rejected rows pass, for the list of rejected clips.

    Args:
        rows: the rows of a source.
        exclude: lists of clips and videos to exclude, in the forms of exclude_lists.py.
        labels: keep clips that have one of these labels; empty keeps all.

    Raises:
        UsageError: a list does not exist, cannot be read or is empty; after the last row: a list has excluded no clip,
            or no row has one of the labels.
    """
    excluded = ExcludeLists(exclude)
    required, found = set(labels), set[str]()
    example = ""
    for row in rows:
        if isinstance(row, Clip):
            example = row.id
            if exclude and excluded.excludes(row.id, row.media if row.source == "folder" else ""):
                continue
            found.update(row.labels)
            if required and required.isdisjoint(row.labels):
                continue
        yield row
    if example:
        excluded.check_matched(example)
    for label in sorted(required - found):
        similar = ", ".join(map(repr, difflib.get_close_matches(label, found, n=3, cutoff=0.5)))
        hint = f"; similar labels are {similar}" if similar else ""
        raise UsageError(f"labels: no row has the label {label!r}{hint}")
