"""The rows of a build on disk, and which shard each belongs to.

All rows of the source go into one file, one JSON object a line, so that a process that builds a shard needs only the offsets of its rows.
Memory: 16 bytes a row and the set of ids (about 0.3 GB for the two million clips of AudioSet).
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path

import numpy as np

from pipelines.manifest import Clip, Rejected, check


@dataclass(frozen=True)
class RowTable:
    """The written rows.

    Attributes:
        path: the file.
        sha256: of the file.
        offsets: uint64 [rows], where each row starts in the file, in the order in which rows are dealt to shards.
        acceptable: rows that are clips, the others being `Rejected` for what the row alone tells.
        rows_per_shard: row i belongs to shard i // rows_per_shard.
    """

    path: Path
    sha256: str
    offsets: np.ndarray
    acceptable: int
    rows_per_shard: int

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def shards(self) -> int:
        return -(-len(self) // self.rows_per_shard)

    def rows_in(self, number: int) -> int:
        """How many rows a shard has."""
        return min(self.rows_per_shard, len(self) - number * self.rows_per_shard)

    def example(self) -> str:
        """The first row and what is wrong with it, for people; "" without rows."""
        first = next(self.read(0, 1), None)
        return f", for example {first.id!r}: {first.reason}, {first.detail!r}" if isinstance(first, Rejected) else ""

    def of_shard(self, number: int) -> list[Clip | Rejected]:
        """The rows of a shard, counted from 0."""
        first = number * self.rows_per_shard
        return list(self.read(first, first + self.rows_per_shard))

    def read(self, first: int, last: int) -> Iterator[Clip | Rejected]:
        """Rows `first` to `last - 1` of the order; fewer at its end."""
        with self.path.open("rb") as file:
            for offset in self.offsets[first:last].tolist():
                file.seek(offset)
                yield _parse(file.readline())


def write_rows(rows: Iterable[Clip | Rejected], path: Path, seed: int, rows_per_shard: int) -> RowTable:
    """Check every row, write all, and put them in the order of a hash of (seed, id).

    The order depends on no library's random numbers, and neighbours in a source are strangers in a shard.

    Args:
        rows: what a source yields. Of rows with the same id the first is kept and the others are turned away.
        path: the file to write; what was there is lost.
        seed: another seed, another order.
        rows_per_shard: how many are dealt to each shard.
    """
    digest, seen = hashlib.sha256(), set()
    offsets, keys = array("Q"), bytearray()
    offset = acceptable = 0
    with path.open("wb", buffering=1 << 20) as file:
        for row in rows:
            if isinstance(row, Clip):
                row = check(row)
            if isinstance(row, Clip):
                if row.id in seen:
                    row = Rejected(row.id, "duplicate_id", f"another clip, of {row.media}, at {row.start_s} s")
                else:
                    seen.add(row.id)
                    acceptable += 1
            line = _line(row)
            file.write(line)
            digest.update(line)
            offsets.append(offset)
            keys += hashlib.blake2b(f"{seed} {_quoted(row.id)}".encode(), digest_size=8).digest()
            offset += len(line)
    order = np.argsort(np.frombuffer(keys, dtype=">u8"), kind="stable")
    return RowTable(
        path, digest.hexdigest(), np.frombuffer(offsets, dtype=np.uint64)[order], acceptable, rows_per_shard
    )


def _line(row: Clip | Rejected) -> bytes:
    """A row's fields as one line of JSON: what json.dumps(vars(row)) gives, but for empty words; for clips in a third of its time."""
    if isinstance(row, Rejected):
        return json.dumps(vars(row)).encode() + b"\n"
    labels = ", ".join(map(_quoted, row.labels))
    words = f', "words": {json.dumps(row.words)}' if row.words else ""
    return (
        f'{{"id": {_quoted(row.id)}, "media": {_quoted(row.media)}, "image": {_quoted(row.image)}, "start_s": {row.start_s!r}, "end_s": {row.end_s!r}, '
        f'"split": {_quoted(row.split)}, "source": {_quoted(row.source)}, "labels": [{labels}], "text": {_quoted(row.text)}{words}}}\n'
    ).encode()


def _parse(line: bytes) -> Clip | Rejected:
    fields = json.loads(line)
    if "reason" in fields:
        return Rejected(**fields)
    return Clip(**fields | {"labels": tuple(fields["labels"]), "words": tuple(map(tuple, fields.get("words", ())))})
