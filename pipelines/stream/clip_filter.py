"""Clip filter: select the clips of a data set by lists of excluded ids and by label, without building shards again."""

import difflib
import itertools
from collections.abc import Sequence

import numpy as np

from configs.errors import UsageError
from pipelines.sources.exclude_lists import ExcludeLists
from pipelines.stream.member_index import MemberTable


def select_clips(table: MemberTable, exclude: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """The selected rows of a member table, int32, ascending.

    Args:
        table: of the data set.
        exclude: lists of clips and videos to exclude, in the forms of pipelines/sources/exclude_lists.py.
        labels: select clips that have one of these; empty: all.

    Raises:
        UsageError: a list cannot be read or excludes no clip, no clip has a label, or the shards were indexed without
            labels.
    """
    selected = np.ones(len(table.columns["id_starts"]) - 1, dtype=bool)
    if exclude:
        lists = ExcludeLists(exclude)
        text, starts = table.columns["id_bytes"].tobytes(), table.columns["id_starts"].tolist()
        selected &= [not lists.excludes(text[start:end].decode()) for start, end in itertools.pairwise(starts)]
        lists.check_matched(text[: starts[1]].decode())
    if labels:
        matches = np.isin(table.columns["label_numbers"], _label_numbers(labels, table.labels))
        matches_before = np.concatenate([[0], np.cumsum(matches)])[table.columns["label_starts"]]
        selected &= np.diff(matches_before) > 0
    return np.flatnonzero(selected).astype(np.int32)


def _label_numbers(labels: Sequence[str], known: Sequence[str]) -> list[int]:
    if not known:
        raise UsageError(
            f"labels=[{', '.join(labels)}]: the JSON files next to the tars contain no labels, as in data sets "
            "of earlier versions, of sources without labels, and in third-party shards; to select by label, build "
            "the data set again in another folder"
        )
    numbers = {label: number for number, label in enumerate(known)}
    for label in labels:
        if label not in numbers:
            similar = difflib.get_close_matches(label, known, n=3, cutoff=0.5)
            hint = f"; similar labels: {', '.join(map(repr, similar))}" if similar else ""
            raise UsageError(f"labels: no clip has the label {label!r}{hint}")
    return [numbers[label] for label in labels]
