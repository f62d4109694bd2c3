"""Clip filter: select the clips of a data set by lists of excluded ids and by label, without building shards again."""

import difflib
import itertools
from collections.abc import Sequence

import numpy as np

from configs.errors import UsageError
from pipelines.sources.filters import is_excluded, read_ids
from pipelines.stream.member_index import MemberTable


def select_clips(table: MemberTable, exclude: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """The selected rows of a member table, int32, ascending.

    Args:
        table: of the data set.
        exclude: files of ids to exclude, as `pipelines.build` reads them: ids of clips, or of videos with all their
            clips.
        labels: select clips that have one of these; empty: all.

    Raises:
        UsageError: a file of ids cannot be read, no clip has a label, or the shards were indexed without labels.
    """
    selected = np.ones(len(table.columns["id_starts"]) - 1, dtype=bool)
    if exclude:
        excluded = frozenset[str]().union(*map(read_ids, exclude))
        text, starts = table.columns["id_bytes"].tobytes(), table.columns["id_starts"].tolist()
        selected &= [not is_excluded(text[start:end].decode(), excluded) for start, end in itertools.pairwise(starts)]
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
