"""Where every member of a data set lies: one memory-mapped table over all its shards, so that a clip is read by number, member by member.

The table is built once from the JSON files beside the tars and kept in `DIR/.index/`, named after the data set's fingerprint; processes that build
it at the same time do no harm, the first one wins. In a folder without write permission each process holds it in memory. Limits: local folders
written by `python -m pipelines.build`; tars below 2 TiB, members below 4 GiB; not for several threads at once.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.command import UsageError

ALLOWED_TYPES = ("jpg", "png", "flac", "wav", "npy", "json")
BLOCK_BYTES = 512  # a tar's members start at multiples of this
OPEN_SHARDS = 128
TABLE_FORMAT = 1


class Shard(NamedTuple):
    """One tar: its name without `.tar` and the clips it holds, `first_clip` to `first_clip + clips - 1`."""

    name: str
    first_clip: int
    clips: int


class DatasetIndex:
    """The clips of one complete data set, numbered from 0 in shard order. Pickles as its path. Made by `open`."""

    def __init__(self, folder: Path, fingerprint: str, shards: list[Shard], table: dict[str, np.ndarray], extensions: list[str]) -> None:
        self.folder, self.fingerprint, self.shards = folder, fingerprint, shards
        self.clips = sum(shard.clips for shard in shards)
        self._first_clips = [shard.first_clip for shard in shards]
        self._table, self._extensions = table, extensions
        self._descriptors: OrderedDict[int, int] = OrderedDict()

    @classmethod
    def open(cls, folder: str | Path) -> DatasetIndex:
        """Open a data set folder.

        Raises:
            UsageError: no such folder, an unfinished one, one that has changed since it was built, or one with members of a type not allowed.
        """
        folder = Path(folder)
        entries = _manifest_shards(folder)
        firsts = np.cumsum([0, *(entry["clips"] for entry in entries)])
        shards = [Shard(entry["name"].removesuffix(".tar"), int(first), entry["clips"]) for entry, first in zip(entries, firsts, strict=False)]
        fingerprint = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
        for shard, entry in zip(shards, entries, strict=True):
            _check_size(folder / f"{shard.name}.tar", entry["size_bytes"], folder)
        if not firsts[-1]:
            raise UsageError(f"{folder} holds no clip: its manifest.json lists none as written, see rejected.jsonl beside it")
        kept = folder / ".index" / f"{TABLE_FORMAT}-{fingerprint[:16]}"
        loaded = _load(kept)
        if loaded is None:
            table, extensions = _build(folder, shards)
            _store(kept, table, extensions)
            loaded = _load(kept) or (table, extensions)
        return cls(folder, fingerprint, shards, *loaded)

    def __reduce__(self) -> tuple[Any, ...]:
        return DatasetIndex.open, (self.folder,)

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def id(self, clip: int) -> str:
        """The clip's id."""
        start, stop = self._table["id_starts"][clip : clip + 2]
        return self._table["id_bytes"][start:stop].tobytes().decode()

    def members(self, clip: int) -> dict[str, tuple[int, int]]:
        """(offset, size) in bytes of each member's data in its tar, by extension: `json`, `0.jpg`, ..., `flac`."""
        start, stop = self._table["member_starts"][clip : clip + 2]
        rows = slice(start, stop)
        kinds, blocks, sizes = (self._table[name][rows].tolist() for name in ("member_kinds", "member_blocks", "member_sizes"))
        return {self._extensions[kind]: (block * BLOCK_BYTES, size) for kind, block, size in zip(kinds, blocks, sizes, strict=True)}

    def read(self, clip: int, extension: str) -> bytes:
        """A member's bytes; fewer than stated when the tar has been cut off since it was opened.

        Raises:
            KeyError: the clip has no such member.
            OSError: the disk fails.
        """
        offset, size = self.members(clip)[extension]
        return os.pread(self._descriptor(bisect.bisect_right(self._first_clips, clip) - 1), size, offset)

    def _descriptor(self, shard: int) -> int:
        """An open file of the shard; the one used longest ago is closed when there are too many."""
        descriptor = self._descriptors.get(shard)
        if descriptor is None:
            if len(self._descriptors) >= OPEN_SHARDS:
                os.close(self._descriptors.popitem(last=False)[1])
            descriptor = self._descriptors[shard] = os.open(self.folder / f"{self.shards[shard].name}.tar", os.O_RDONLY | os.O_CLOEXEC)
        self._descriptors.move_to_end(shard)
        return descriptor


def _manifest_shards(folder: Path) -> list[dict[str, Any]]:
    """Name, clips, size and SHA-256 of each shard, from the root manifest."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of shards; python -m pipelines.build ... out={folder} makes it")
    file = folder / "manifest.json"
    if not file.is_file():
        raise UsageError(f"{folder} has no manifest.json: it is unfinished or no data set; run python -m pipelines.build ... out={folder} (again) to finish it")
    try:
        return [{key: entry[key] for key in ("name", "clips", "size_bytes", "sha256")} for entry in json.loads(file.read_text())["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is not a manifest of shards ({error}); build the data set again") from None


def _check_size(tar: Path, size_bytes: int, folder: Path) -> None:
    found = tar.stat().st_size if tar.is_file() else None
    if found != size_bytes:
        state = "is missing" if found is None else f"has {found} bytes"
        raise UsageError(f"{tar} {state}, manifest.json says {size_bytes}; python -m pipelines.verify {folder} tells what else is damaged")


def _build(folder: Path, shards: list[Shard]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Merge the JSON files beside the tars."""
    kinds: dict[str, int] = {}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("id_lengths", "id_bytes", "member_counts", "member_kinds", "member_blocks", "member_sizes")}
    for shard in shards:
        file = folder / f"{shard.name}.json"
        try:
            clips = json.loads(file.read_text())["members"]
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{file}, the index of a shard, cannot be read ({error}); build the data set again") from None
        members = np.array([place for clip in clips for place in clip["files"].values()], dtype=np.int64).reshape(-1, 2)
        names = [name for clip in clips for name in clip["files"]]
        size_bytes = (folder / f"{shard.name}.tar").stat().st_size
        if len(clips) != shard.clips or (members < 0).any() or (members[:, 0] % BLOCK_BYTES).any() or (members.sum(axis=1) > size_bytes).any():
            raise UsageError(f"{file} does not fit its tar and manifest.json ({len(clips)} clips, {shard.clips} stated); build the data set again")
        for name in set(names) - kinds.keys():
            if name.rpartition(".")[2] not in ALLOWED_TYPES:
                raise UsageError(f"{file} lists a member .{name}: allowed types are {', '.join(ALLOWED_TYPES)}")
        ids = [clip["id"].encode() for clip in clips]
        columns["id_lengths"].append(np.array([len(i) for i in ids], dtype=np.int64))
        columns["id_bytes"].append(np.frombuffer(b"".join(ids), dtype=np.uint8))
        columns["member_counts"].append(np.array([len(clip["files"]) for clip in clips], dtype=np.int64))
        columns["member_kinds"].append(np.array([kinds.setdefault(name, len(kinds)) for name in names], dtype=np.uint16))
        columns["member_blocks"].append((members[:, 0] // BLOCK_BYTES).astype(np.uint32))
        columns["member_sizes"].append(members[:, 1].astype(np.uint32))
    table = {name: np.concatenate(parts) for name, parts in columns.items()}
    table["id_starts"] = np.concatenate([[0], np.cumsum(table.pop("id_lengths"))])
    table["member_starts"] = np.concatenate([[0], np.cumsum(table.pop("member_counts"))])
    return table, list(kinds)


def _store(kept: Path, table: dict[str, np.ndarray], extensions: list[str]) -> None:
    """Write the table as a folder that is whole or not there. A folder that cannot be written, or one another process has written, is left alone."""
    with contextlib.suppress(OSError):
        kept.parent.mkdir(exist_ok=True)
        with _temporary_folder(kept.parent) as temporary:
            for name, column in table.items():
                with (temporary / f"{name}.npy").open("wb") as file:
                    np.save(file, column, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
            (temporary / "extensions.json").write_text(json.dumps(extensions))
            temporary.rename(kept)


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    temporary.chmod(0o755)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _load(kept: Path) -> tuple[dict[str, np.ndarray], list[str]] | None:
    """The stored table, memory-mapped; None when there is none. A damaged one is removed."""
    if not kept.is_dir():
        return None
    try:
        extensions = json.loads((kept / "extensions.json").read_text())
        names = ("id_starts", "id_bytes", "member_starts", "member_kinds", "member_blocks", "member_sizes")
        # A plain array over the map: slicing numpy's memmap class costs five times as much.
        return {name: np.load(kept / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray) for name in names}, extensions
    except (OSError, ValueError, EOFError):
        shutil.rmtree(kept, ignore_errors=True)
        return None
