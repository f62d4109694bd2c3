"""The clips of a data set by number, member by member: `DatasetIndex`. As a command it indexes shards that others wrote (index_foreign.py):
`python -m pipelines.stream.index DIR`.

Only the members asked for are read, by offset: from the tars of a local folder, or from copies of remote ones (cache.py). Limits: data sets with a
manifest.json, ours or an adopted one; not for several threads at once.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.cli import run
from configs.errors import UsageError
from configs.schema import IndexConfig
from pipelines.shard_format import is_shard_name
from pipelines.storage import LocalFolder, open_folder
from pipelines.stream import retry
from pipelines.stream.cache import ShardCache, ShardInfo
from pipelines.stream.member_index import BLOCK_BYTES, TABLE_FORMAT, Table, load, load_or_build

OPEN_SHARDS = 128
DEFAULT_CACHE = "~/.cache/denseav"


class Shard(NamedTuple):
    """One tar: its name without `.tar` and the clips it holds, `first_clip` to `first_clip + clips - 1`."""

    name: str
    first_clip: int
    clips: int


class CacheSettings(NamedTuple):
    """Where copies of remote shards are kept, and how many bytes of them."""

    folder: str = DEFAULT_CACHE
    max_bytes: int = 10**11


class DatasetIndex:
    """The clips of one data set, or those of a selection, numbered from 0 in shard order. Made by `open`; pickles as what it was opened with.

    Attributes:
        folder: of the shards, as it was given.
        fingerprint: of the data set and the selection.
        shards: its tars and how many clips of the selection each holds.
        clips: their number.
        cache: of the tars of a remote data set; None for a local one.
    """

    def __init__(
        self,
        folder: str | Path,
        entries: list[dict[str, Any]],
        table: Table,
        rows: np.ndarray | None,
        tars: Path | ShardCache,
        kept: Path,
    ) -> None:
        self._descriptors: OrderedDict[int, int] = OrderedDict()  # first, as __del__ wants it
        self.folder, self.cache = folder, tars if isinstance(tars, ShardCache) else None
        self._entries, self._table, self._columns, self._rows, self._tars, self._kept = (
            entries,
            table,
            table.columns,
            rows,
            tars,
            kept,
        )
        firsts = np.cumsum([0, *(entry["clips"] for entry in entries)])
        if rows is not None:
            firsts = np.searchsorted(rows, firsts)
        self.shards = [
            Shard(entry["name"], int(first), int(end - first))
            for entry, first, end in zip(entries, firsts, firsts[1:], strict=False)
        ]
        self.clips = int(firsts[-1])
        if not self.clips:
            raise UsageError(f"{self.folder}: exclude and labels leave none of its clips")
        parts = (
            json.dumps(entries) if rows is None else json.dumps(entries) + hashlib.sha256(rows.tobytes()).hexdigest()
        )
        self.fingerprint = hashlib.sha256(parts.encode()).hexdigest()
        self._first_clips = [shard.first_clip for shard in self.shards]

    @classmethod
    def open(
        cls, folder: str | Path, cache: CacheSettings | None = None, select: Callable[[Table], np.ndarray] | None = None
    ) -> DatasetIndex:
        """Open a data set.

        Args:
            folder: local, or any address of fsspec.
            cache: for remote ones.
            select: of the whole table the rows to keep, integers rising; None: all.

        Raises:
            UsageError: no such folder, an unfinished one, one that has changed since it was built, or one with members of a type not allowed.
            CommandFailed: a remote folder does not answer.
        """
        opened, settings = open_folder(str(folder)), cache or CacheSettings()
        entries = _manifest_shards(opened)
        fingerprint = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
        if not any(entry["clips"] for entry in entries):
            raise UsageError(
                f"{folder} holds no clip: its manifest.json lists none as written, see rejected.jsonl beside it"
            )
        table_name = f"{TABLE_FORMAT}-{fingerprint[:16]}"
        if isinstance(opened, LocalFolder):
            _check_sizes(opened, entries)
            tars, kept = opened.path, opened.path / ".index" / table_name
            table = load_or_build(kept, opened, entries)
        else:
            stated = {entry["name"]: ShardInfo(entry["size_bytes"], entry["sha256"]) for entry in entries}
            tars = ShardCache(opened, stated, Path(settings.folder).expanduser(), fingerprint, settings.max_bytes)
            kept = tars.tables / table_name
            with tars.index_lock():
                table = load_or_build(kept, opened, entries)
        try:
            return cls(folder, entries, table, select(table) if select else None, tars, kept)
        except UsageError as error:
            raise UsageError(str(error) if str(error).startswith(str(folder)) else f"{folder}: {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        table = None if self._kept.is_dir() else self._table
        return _opened_again, (self.folder, self._entries, table, self._rows, self._tars, self._kept)

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def id(self, clip: int) -> str:
        """The clip's id."""
        return self._part("id", clip, "id_bytes").tobytes().decode()

    def labels(self, clip: int) -> list[str]:
        """The clip's labels."""
        return [self._table.labels[number] for number in self._part("label", clip, "label_numbers").tolist()]

    def members(self, clip: int) -> dict[str, tuple[int, int]]:
        """(offset, size) in bytes of each member's data in its tar, by extension: `json`, `0.jpg`, ..., `flac`."""
        kinds, blocks, sizes = (
            self._part("member", clip, f"member_{name}").tolist() for name in ("kinds", "blocks", "sizes")
        )
        return {
            self._table.extensions[kind]: (block * BLOCK_BYTES, size)
            for kind, block, size in zip(kinds, blocks, sizes, strict=True)
        }

    def read(self, clip: int, extension: str) -> bytes:
        """A member's bytes; fewer than stated when the tar has been cut off since it was opened.

        Raises:
            KeyError: the clip has no such member.
            OSError: the disk fails.
            CommandFailed: a remote shard cannot be fetched.
        """
        offset, size = self.members(clip)[extension]
        shard = self.shard_of(clip)
        if self.cache is None:
            return os.pread(self._descriptor(shard), size, offset)
        descriptor = self.cache.open(
            self.shards[shard].name
        )  # not kept open: a removed copy is to leave the disk, one in use to look used
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def shard_of(self, clip: int) -> int:
        """The number of the shard that holds a clip."""
        return bisect.bisect_right(self._first_clips, clip) - 1

    def _part(self, starts: str, clip: int, column: str) -> np.ndarray:
        row = clip if self._rows is None else int(self._rows[clip])
        start, stop = self._columns[f"{starts}_starts"][row : row + 2]
        return self._columns[column][start:stop]

    def _descriptor(self, shard: int) -> int:
        """An open file of the local shard; the one used longest ago is closed when there are too many."""
        descriptor = self._descriptors.get(shard)
        if descriptor is None:
            if len(self._descriptors) >= OPEN_SHARDS:
                os.close(self._descriptors.popitem(last=False)[1])
            descriptor = self._descriptors[shard] = os.open(
                self._tars / f"{self.shards[shard].name}.tar", os.O_RDONLY | os.O_CLOEXEC
            )
        self._descriptors.move_to_end(shard)
        return descriptor


def _opened_again(
    folder: Any, entries: Any, table: Table | None, rows: Any, tars: Path | ShardCache, kept: Path
) -> DatasetIndex:
    """The index in another process: without a word to a remote store, which might not answer."""
    table = table or load(kept) or load_or_build(kept, open_folder(str(folder)), entries)
    return DatasetIndex(folder, entries, table, rows, tars, kept)


def _manifest_shards(folder: Any) -> list[dict[str, Any]]:
    """Name, clips, size and SHA-256 of each shard, from the root manifest."""
    is_local = isinstance(folder, LocalFolder)
    if is_local and not folder.path.is_dir():
        raise UsageError(f"{folder}: no such folder of shards; python -m pipelines.build ... out={folder} makes it")
    try:
        shards = retry.read_json(folder, "manifest.json", retry.SHORT_RETRY)["shards"]
        if wrong := [entry["name"] for entry in shards if not is_shard_name(entry["name"])]:
            raise ValueError(f"no shard can be called {wrong[0]!r}")
        return [{key: entry[key] for key in ("name", "clips", "size_bytes", "sha256")} for entry in shards]
    except FileNotFoundError:
        raise UsageError(
            f"{folder} has no manifest.json: it is unfinished or no data set; run python -m pipelines.build ... out={folder} (again) to finish it, "
            f"or python -m pipelines.stream.index {folder} for shards that others wrote"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder}/manifest.json is not a manifest of shards ({error}); build the data set again"
        ) from None


def _check_sizes(folder: LocalFolder, entries: list[dict[str, Any]]) -> None:
    sizes = folder.sizes("*.tar")
    for entry in entries:
        found = sizes.get(f"{entry['name']}.tar")
        if found != entry["size_bytes"]:
            state = "is missing" if found is None else f"has {found} bytes"
            raise UsageError(
                f"{folder}/{entry['name']}.tar {state}, manifest.json says {entry['size_bytes']}; "
                f"python -m pipelines.verify {folder} tells what else is damaged"
            )


def main(config: IndexConfig, folder: str) -> int:
    """Index shards that others wrote."""
    from pipelines.stream.index_foreign import index_foreign_shards

    return index_foreign_shards(folder, config.max_member_mb)


if __name__ == "__main__":
    sys.exit(run(IndexConfig, __doc__, main, positional=("dir",)))
