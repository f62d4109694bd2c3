"""`DatasetIndex`: clips of a data set by number, member by member.

As a command, index third-party WebDataset shards (index_foreign.py): `python -m pipelines.stream.index DIR`.

Only the requested members are read, by offset: from the tars of a local folder, or from cached copies of remote ones
(cache.py). Limits: data sets with a manifest.json, written by pipelines.build or by this command; not thread-safe.
"""

import bisect
import hashlib
import json
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from configs.cli import run
from configs.errors import UsageError
from configs.schema import IndexConfig
from pipelines.shard_format import is_shard_name
from pipelines.storage import Folder, LocalFolder, open_folder
from pipelines.stream import remote_retry
from pipelines.stream.cache import ShardCache
from pipelines.stream.member_index import BLOCK_BYTES, TABLE_FORMAT, MemberTable, load, load_or_build

MAX_OPEN_SHARDS = 128


class Shard(NamedTuple):
    """One tar: its name without `.tar` and its clips, `first_clip` to `first_clip + clips - 1`."""

    name: str
    first_clip: int
    clips: int


class DatasetIndex:
    """The clips of a data set, or of a selection of it, numbered from 0 in shard order. Create it with `open`.

    Attributes:
        folder: of the shards, as it was given.
        fingerprint: of the data set and the selection.
        shards: its tars and how many clips of the selection each has.
        clips: number of clips.
        folders, first_clips: each folder (JoinedIndex has several) and the number of its first clip.
        cache: of the tars of a remote data set; None for a local one.
        caches: the same for each shard.
    """

    def __init__(
        self,
        folder: str | Path,
        entries: list[dict[str, Any]],
        table: MemberTable,
        rows: np.ndarray | None,
        tar_folder: Path,
        cache: ShardCache | None,
        table_path: Path,
    ) -> None:
        self._descriptors: OrderedDict[int, int] = OrderedDict()  # first, because __del__ needs it
        self.folder, self.cache = folder, cache
        self._entries, self._table, self._columns, self._rows = entries, table, table.columns, rows
        self._tar_folder, self._table_path = tar_folder, table_path
        firsts = np.cumsum([0, *(entry["clips"] for entry in entries)])
        if rows is not None:
            firsts = np.searchsorted(rows, firsts)
        self.shards = [
            Shard(entry["name"], int(first), int(end - first))
            for entry, first, end in zip(entries, firsts, firsts[1:], strict=False)
        ]
        self.clips, self.folders, self.first_clips = int(firsts[-1]), [folder], [0]
        self.caches = [cache] * len(self.shards)
        if not self.clips:
            raise UsageError(f"{self.folder}: exclude and labels select none of its clips")
        selection = "" if rows is None else hashlib.sha256(rows.tobytes()).hexdigest()
        self.fingerprint = hashlib.sha256((json.dumps(entries) + selection).encode()).hexdigest()
        self._shard_starts = [shard.first_clip for shard in self.shards]

    @classmethod
    def open(
        cls,
        folder: str | Path,
        select: Callable[[MemberTable], np.ndarray] | None = None,
        cache_dir: str = "~/.cache/denseav",
        cache_bytes: int = 10**11,
    ) -> Self:
        """Open a data set.

        Args:
            folder: local, or any address of fsspec.
            select: returns the rows of the table to use, integers, ascending; None: all.
            cache_dir, cache_bytes: folder and maximum size of the copies of remote shards.

        Raises:
            UsageError: the folder does not exist, is unfinished, has changed since it was built, or has members of a
                type that is not allowed.
            CommandFailed: a remote folder does not answer.
        """
        opened = open_folder(str(folder))
        entries = manifest_shards(opened)
        fingerprint = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
        if not any(entry["clips"] for entry in entries):
            raise UsageError(f"{folder} has no clips: its manifest.json lists none as written; see its rejected.jsonl")
        table_name = f"{TABLE_FORMAT}-{fingerprint[:16]}"
        shard_cache = None
        if isinstance(opened, LocalFolder):
            _check_sizes(opened, entries)
            tar_folder, table_path = opened.path, opened.path / ".index" / table_name
            table = load_or_build(table_path, opened, entries)
        else:
            shard_cache = ShardCache(opened, entries, Path(cache_dir).expanduser(), fingerprint, cache_bytes)
            tar_folder, table_path = shard_cache.data_set_folder, shard_cache.data_set_folder / table_name
            with shard_cache.index_lock():
                table = load_or_build(table_path, opened, entries)
        try:
            rows = select(table) if select else None
            return cls(folder, entries, table, rows, tar_folder, shard_cache, table_path)
        except UsageError as error:
            raise UsageError(str(error) if str(error).startswith(str(folder)) else f"{folder}: {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (
            self.folder,
            self._entries,
            None if self._table_path.is_dir() else self._table,
            self._rows,
            self._tar_folder,
            self.cache,
            self._table_path,
        )

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def id(self, clip: int) -> str:
        """The clip's id."""
        return self._slice("id", clip, "id_bytes").tobytes().decode()

    def labels(self, clip: int) -> list[str]:
        """The clip's labels."""
        return [self._table.labels[number] for number in self._slice("label", clip, "label_numbers").tolist()]

    def members(self, clip: int) -> dict[str, tuple[int, int]]:
        """(offset, size) in bytes of each member's data in its tar, by extension: `json`, `0.jpg`, ..., `flac`."""
        kinds, blocks, sizes = (
            self._slice("member", clip, f"member_{name}").tolist() for name in ("kinds", "blocks", "sizes")
        )
        return {
            self._table.extensions[kind]: (block * BLOCK_BYTES, size)
            for kind, block, size in zip(kinds, blocks, sizes, strict=True)
        }

    def read(self, clip: int, extension: str) -> bytes:
        """A member's bytes; fewer than its size where the tar was truncated after it was opened.

        Raises:
            KeyError: the clip has no such member.
            OSError: the disk fails.
            CommandFailed: a remote shard cannot be fetched.
        """
        offset, size = self.members(clip)[extension]
        shard = self.shard_of(clip)
        if self.cache is None:
            return os.pread(self._descriptor(shard), size, offset)
        # Opened for each read: an evicted copy must free its disk space, and each use must be noted for the LRU order.
        descriptor = self.cache.open(self.shards[shard].name)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def shard_of(self, clip: int) -> int:
        """The number of the shard that holds a clip."""
        return bisect.bisect_right(self._shard_starts, clip) - 1

    def _slice(self, starts: str, clip: int, column: str) -> np.ndarray:
        row = clip if self._rows is None else int(self._rows[clip])
        start, stop = self._columns[f"{starts}_starts"][row : row + 2]
        return self._columns[column][start:stop]

    def _descriptor(self, shard: int) -> int:
        """A file descriptor of the local shard; the least recently used one is closed when there are too many."""
        descriptor = self._descriptors.get(shard)
        if descriptor is None:
            if len(self._descriptors) >= MAX_OPEN_SHARDS:
                os.close(self._descriptors.popitem(last=False)[1])
            path = self._tar_folder / f"{self.shards[shard].name}.tar"
            descriptor = self._descriptors[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._descriptors.move_to_end(shard)
        return descriptor


def _unpickle(
    folder: str | Path, entries: list[dict[str, Any]], table: MemberTable | None, rows: Any, *paths: Any
) -> DatasetIndex:
    """The index in another process, from the stored table: a remote store might not answer."""
    table = table or load(paths[-1]) or load_or_build(paths[-1], open_folder(str(folder)), entries)
    return DatasetIndex(folder, entries, table, rows, *paths)


def manifest_shards(folder: Folder) -> list[dict[str, Any]]:
    """Name, clips, size and SHA-256 of each shard, from the root manifest.

    Raises:
        UsageError: the folder does not exist, is unfinished, or its manifest is invalid.
        CommandFailed: a remote folder does not answer.
    """
    if isinstance(folder, LocalFolder) and not folder.path.is_dir():
        raise UsageError(f"{folder}: no such folder of shards; python -m pipelines.build ... out={folder} creates it")
    try:
        shards = remote_retry.read_json(folder, "manifest.json", remote_retry.SHORT_RETRY)["shards"]
        if wrong := [entry["name"] for entry in shards if not is_shard_name(entry["name"])]:
            raise ValueError(f"invalid name of a shard: {wrong[0]!r}")
        return [{key: entry[key] for key in ("name", "clips", "size_bytes", "sha256")} for entry in shards]
    except FileNotFoundError:
        raise UsageError(
            f"{folder} has no manifest.json: it is unfinished or not a data set; finish it with "
            f"python -m pipelines.build ... out={folder}, or index third-party shards with "
            f"python -m pipelines.stream.index {folder}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder}/manifest.json is not a manifest of shards ({error}); build the data set again"
        ) from None


def _check_sizes(folder: LocalFolder, entries: list[dict[str, Any]]) -> None:
    sizes = folder.sizes("*.tar")
    for entry in entries:
        size = sizes.get(f"{entry['name']}.tar")
        if size != entry["size_bytes"]:
            state = "is missing" if size is None else f"has {size} bytes"
            raise UsageError(
                f"{folder}/{entry['name']}.tar {state}, manifest.json states {entry['size_bytes']}; "
                f"python -m pipelines.verify {folder} lists all damage"
            )


def main(config: IndexConfig, folder: str) -> int:
    """Index third-party WebDataset shards."""
    from pipelines.stream.index_foreign import index_foreign_shards

    return index_foreign_shards(folder, config.max_member_mb)


if __name__ == "__main__":
    sys.exit(run(IndexConfig, __doc__, main, positional=("dir",)))
