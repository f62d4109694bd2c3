"""The clips of a data set by number, member by member: `DatasetIndex`. As a command it indexes shards that others wrote (adopt.py):
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

from configs.command import UsageError, run
from configs.schema import AdoptConfig
from pipelines.storage import LocalFolder, open_folder, read
from pipelines.stream.cache import ShardCache, StatedShard
from pipelines.stream.table import BLOCK_BYTES, TABLE_FORMAT, Table, load_or_build

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
        is_remote: whether the tars are copies from elsewhere.
    """

    def __init__(self, entries: list[dict[str, Any]], table: Table, rows: np.ndarray | None, opened_with: tuple[Any, ...], open_shard: Callable) -> None:
        self.folder, self._opened_with = opened_with[0], opened_with
        self._table, self._columns, self._rows = table, table.columns, rows
        firsts = np.cumsum([0, *(entry["clips"] for entry in entries)])
        if rows is not None:
            firsts = np.searchsorted(rows, firsts)
        self.shards = [Shard(entry["name"], int(first), int(end - first)) for entry, first, end in zip(entries, firsts, firsts[1:], strict=False)]
        self.clips = int(firsts[-1])
        if not self.clips:
            raise UsageError(f"{self.folder}: exclude and labels leave none of its clips")
        parts = json.dumps(entries) if rows is None else json.dumps(entries) + hashlib.sha256(rows.tobytes()).hexdigest()
        self.fingerprint = hashlib.sha256(parts.encode()).hexdigest()
        self._first_clips = [shard.first_clip for shard in self.shards]
        self._open_shard, self.is_remote = open_shard, not isinstance(open_shard, _LocalShards)
        self._descriptors: OrderedDict[int, int] = OrderedDict()

    @classmethod
    def open(cls, folder: str | Path, cache: CacheSettings | None = None, select: Callable[[Table], np.ndarray] | None = None) -> DatasetIndex:
        """Open a data set.

        Args:
            folder: local, or any address of fsspec.
            cache: for remote ones.
            select: of the whole table the rows to keep, integers rising; None: all.

        Raises:
            UsageError: no such folder, an unfinished one, one that has changed since it was built, or one with members of a type not allowed.
            RunFailed: a remote folder does not answer.
        """
        opened, cache = open_folder(str(folder)), cache or CacheSettings()
        entries = _manifest_shards(opened)
        fingerprint = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
        if not any(entry["clips"] for entry in entries):
            raise UsageError(f"{folder} holds no clip: its manifest.json lists none as written, see rejected.jsonl beside it")
        if isinstance(opened, LocalFolder):
            _check_sizes(opened, entries)
            kept, open_shard = opened.path / ".index", _LocalShards(opened.path)
        else:
            kept = Path(cache.folder).expanduser() / fingerprint[:16]
            stated = {entry["name"]: StatedShard(entry["size_bytes"], entry["sha256"]) for entry in entries}
            open_shard = ShardCache(opened, stated, kept.parent, fingerprint, cache.max_bytes).open
        table = load_or_build(kept / f"{TABLE_FORMAT}-{fingerprint[:16]}", opened, entries)
        rows = select(table) if select else None
        return cls(entries, table, rows, (folder, cache, rows if rows is None else _Chosen(rows)), open_shard)

    def __reduce__(self) -> tuple[Any, ...]:
        return DatasetIndex.open, self._opened_with

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
        kinds, blocks, sizes = (self._part("member", clip, f"member_{name}").tolist() for name in ("kinds", "blocks", "sizes"))
        return {self._table.extensions[kind]: (block * BLOCK_BYTES, size) for kind, block, size in zip(kinds, blocks, sizes, strict=True)}

    def read(self, clip: int, extension: str) -> bytes:
        """A member's bytes; fewer than stated when the tar has been cut off since it was opened.

        Raises:
            KeyError: the clip has no such member.
            OSError: the disk fails.
            RunFailed: a remote shard cannot be fetched.
        """
        offset, size = self.members(clip)[extension]
        return os.pread(self._descriptor(self.shard_of(clip)), size, offset)

    def shard_of(self, clip: int) -> int:
        """The number of the shard that holds a clip."""
        return bisect.bisect_right(self._first_clips, clip) - 1

    def fetch(self, shard: int) -> None:
        """See to it that a shard can be read at once, from this machine."""
        os.close(self._open_shard(self.shards[shard].name))

    def _part(self, starts: str, clip: int, column: str) -> np.ndarray:
        row = clip if self._rows is None else int(self._rows[clip])
        start, stop = self._columns[f"{starts}_starts"][row : row + 2]
        return self._columns[column][start:stop]

    def _descriptor(self, shard: int) -> int:
        """An open file of the shard; the one used longest ago is closed when there are too many."""
        descriptor = self._descriptors.get(shard)
        if descriptor is None:
            if len(self._descriptors) >= OPEN_SHARDS:
                os.close(self._descriptors.popitem(last=False)[1])
            descriptor = self._descriptors[shard] = self._open_shard(self.shards[shard].name)
        self._descriptors.move_to_end(shard)
        return descriptor


class _Chosen(NamedTuple):
    """A selection that has been made, for the other processes."""

    rows: np.ndarray

    def __call__(self, _: Table) -> np.ndarray:
        return self.rows


class _LocalShards:
    """Opens the tars of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str) -> int:
        return os.open(self._folder / f"{name}.tar", os.O_RDONLY | os.O_CLOEXEC)


def _manifest_shards(folder: Any) -> list[dict[str, Any]]:
    """Name, clips, size and SHA-256 of each shard, from the root manifest."""
    is_local = isinstance(folder, LocalFolder)
    if is_local and not folder.path.is_dir():
        raise UsageError(f"{folder}: no such folder of shards; python -m pipelines.build ... out={folder} makes it")
    try:
        content = read(folder, "manifest.json")
    except FileNotFoundError:
        raise UsageError(
            f"{folder} has no manifest.json: it is unfinished or no data set; run python -m pipelines.build ... out={folder} (again) to finish it, "
            f"or python -m pipelines.stream.index {folder} for shards that others wrote"
        ) from None
    try:
        return [{key: entry[key] for key in ("name", "clips", "size_bytes", "sha256")} for entry in json.loads(content)["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder}/manifest.json is not a manifest of shards ({error}); build the data set again") from None


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


def main(config: AdoptConfig, folder: str) -> int:
    """Index shards that others wrote."""
    from pipelines.stream.adopt import adopt

    return adopt(folder, config.max_member_mb)


if __name__ == "__main__":
    sys.exit(run(AdoptConfig, __doc__, main, positional=("dir",)))
