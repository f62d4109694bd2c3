"""Which clips of a data set a stream takes: without those of some lists, with certain labels only. No shard is built again for that."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from configs.errors import UsageError
from pipelines.sources.filters import is_excluded, read_ids
from pipelines.stream.member_index import Table


class Selection(NamedTuple):
    """Called with a table: the rows to keep, int32 rising.

    Attributes:
        exclude: files of ids to leave out, as `pipelines.build` takes them: of clips, or of videos with all their clips.
        labels: keep clips that have one of these; empty: all.

    Raises (when called):
        UsageError: a file of ids that cannot be read, a label that no clip has, or a data set whose shards say nothing of labels.
    """

    exclude: tuple[str, ...]
    labels: tuple[str, ...]

    def __call__(self, table: Table) -> np.ndarray:
        keep = np.ones(len(table.columns["id_starts"]) - 1, dtype=bool)
        if self.exclude:
            left_out = frozenset().union(*map(read_ids, self.exclude))
            text, starts = table.columns["id_bytes"].tobytes(), table.columns["id_starts"].tolist()
            keep &= [not is_excluded(text[start:end].decode(), left_out) for start, end in itertools.pairwise(starts)]
        if self.labels:
            wanted = np.isin(table.columns["label_numbers"], _numbers(self.labels, table.labels))
            found = np.concatenate([[0], np.cumsum(wanted)])[table.columns["label_starts"]]
            keep &= np.diff(found) > 0
        return np.flatnonzero(keep).astype(np.int32)


def _numbers(labels: Sequence[str], known: Sequence[str]) -> list[int]:
    if not known:
        raise UsageError(
            f"labels=[{', '.join(labels)}]: the JSON files beside the tars say nothing of labels, as in data sets of earlier versions, sources without labels "
            "and shards of others; to keep some labels only, build the data set again, into another folder"
        )
    numbers = {label: number for number, label in enumerate(known)}
    for label in labels:
        if label not in numbers:
            near = difflib.get_close_matches(label, known, n=3, cutoff=0.5)
            raise UsageError(
                f"labels: no clip has the label {label!r}"
                + (f"; near it are {', '.join(map(repr, near))}" if near else "")
            )
    return [numbers[label] for label in labels]
