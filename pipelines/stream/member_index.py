"""One memory-mapped table over all shards of a data set: ids, labels, and where each member lies. Built once from the JSON files beside the tars.

It is kept as a folder of .npy files, named after the data set's fingerprint; processes that build it at the same time do no harm, the first one wins.
Limits: tars below 2 TiB, members below 4 GiB.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.errors import UsageError
from pipelines.storage import Folder
from pipelines.stream import retry

ALLOWED_TYPES = ("jpg", "jpeg", "png", "flac", "wav", "opus", "npy", "json")
BLOCK_BYTES = 512  # a tar's members start at multiples of this
TABLE_FORMAT = 2
_READERS = 16


class Table(NamedTuple):
    """Columns over all clips, and over all members of all clips.

    Attributes:
        columns: id_starts, label_starts, member_starts, int64 [clips + 1]: where a clip's part of the other columns begins;
            id_bytes uint8; label_numbers uint32; member_kinds uint16; member_blocks, member_sizes uint32.
        extensions: what member_kinds count: `json`, `0.jpg`, ...
        labels: what label_numbers count.
    """

    columns: dict[str, np.ndarray]
    extensions: list[str]
    labels: list[str]


def load_or_build(kept: Path, folder: Folder, shards: Sequence[dict[str, Any]]) -> Table:
    """The table at a path, or a new one, stored there where that is possible.

    Args:
        kept: its folder; without write permission each process holds a table in memory.
        folder: of the shards.
        shards: name, clips and size_bytes of each, as the manifest says.

    Raises:
        UsageError: the JSON file of a shard cannot be read, does not fit its tar, or lists members of a type that is not allowed.
        CommandFailed: a remote one does not come.
    """
    loaded = load(kept)
    if loaded is None:
        built = _build(folder, shards)
        _store(kept, built)
        loaded = load(kept) or built
    return loaded


def _build(folder: Folder, shards: Sequence[dict[str, Any]]) -> Table:
    kinds: dict[str, int] = {}
    labels: dict[str, int] = {}
    parts: dict[str, list[np.ndarray]] = {}
    with ThreadPoolExecutor(_READERS) as threads:  # a remote folder answers many at once
        for first in range(0, len(shards), _READERS):
            some = shards[first : first + _READERS]
            for shard, clips in zip(some, threads.map(lambda shard: _read_shard(folder, shard), some), strict=True):
                for name, part in _columns(folder, shard, clips, kinds, labels).items():
                    parts.setdefault(name, []).append(part)
    columns = {name: np.concatenate(found) for name, found in parts.items()}
    for name in ("id", "label", "member"):
        columns[f"{name}_starts"] = np.concatenate([[0], np.cumsum(columns.pop(f"{name}_counts"))])
    return Table(columns, list(kinds), list(labels))


def _read_shard(folder: Folder, shard: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        return retry.read_json(folder, f"{shard['name']}.json", retry.LONG_RETRY)["members"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{folder}/{shard['name']}.json, the index of a shard, cannot be read ({error}); build the data set again"
        ) from None


def _columns(
    folder: Folder, shard: dict[str, Any], clips: list[dict[str, Any]], kinds: dict[str, int], labels: dict[str, int]
) -> dict[str, np.ndarray]:
    """One shard's part of the columns; new extensions and labels are given the next numbers."""
    file = f"{folder}/{shard['name']}.json"
    members = np.array([place for clip in clips for place in clip["files"].values()], dtype=np.int64).reshape(-1, 2)
    names = [name for clip in clips for name in clip["files"]]
    if (
        len(clips) != shard["clips"]
        or (members < 0).any()
        or (members[:, 0] % BLOCK_BYTES).any()
        or (members.sum(axis=1) > shard["size_bytes"]).any()
    ):
        raise UsageError(
            f"{file} does not fit its tar and manifest.json ({len(clips)} clips, {shard['clips']} stated); build the data set again"
        )
    for name in set(names) - kinds.keys():
        if name.rpartition(".")[2] not in ALLOWED_TYPES:
            raise UsageError(f"{file} lists a member .{name}: allowed types are {', '.join(ALLOWED_TYPES)}")
    ids = [clip["id"].encode() for clip in clips]
    labels_of_clips = [clip.get("labels", ()) for clip in clips]
    return {
        "id_counts": np.array([len(i) for i in ids], dtype=np.int64),
        "id_bytes": np.frombuffer(b"".join(ids), dtype=np.uint8),
        "label_counts": np.array([len(found) for found in labels_of_clips], dtype=np.int64),
        "label_numbers": np.array(
            [labels.setdefault(label, len(labels)) for found in labels_of_clips for label in found], dtype=np.uint32
        ),
        "member_counts": np.array([len(clip["files"]) for clip in clips], dtype=np.int64),
        "member_kinds": np.array([kinds.setdefault(name, len(kinds)) for name in names], dtype=np.uint16),
        "member_blocks": (members[:, 0] // BLOCK_BYTES).astype(np.uint32),
        "member_sizes": members[:, 1].astype(np.uint32),
    }


def _store(kept: Path, table: Table) -> None:
    """Write the table as a folder that is whole or not there. A folder that cannot be written, or one another process has written, is left alone."""
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(kept.parent) as temporary:
            for name, column in table.columns.items():
                with (temporary / f"{name}.npy").open("wb") as file:
                    np.save(file, column, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
            (temporary / "names.json").write_text(json.dumps({"extensions": table.extensions, "labels": table.labels}))
            temporary.rename(kept)


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    temporary.chmod(0o755)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(kept: Path) -> Table | None:
    """The stored table, memory-mapped; None when there is none. A damaged one is removed."""
    if not kept.is_dir():
        return None
    try:
        names = json.loads((kept / "names.json").read_text())
        columns = (
            "id_starts",
            "id_bytes",
            "label_starts",
            "label_numbers",
            "member_starts",
            "member_kinds",
            "member_blocks",
            "member_sizes",
        )
        # A plain array over the map: slicing numpy's memmap class costs five times as much.
        mapped = {name: _mapped(kept / f"{name}.npy") for name in columns}
        return Table(mapped, names["extensions"], names["labels"])
    except (OSError, ValueError, EOFError, KeyError):
        shutil.rmtree(kept, ignore_errors=True)
        return None


def _mapped(path: Path) -> np.ndarray:
    """A stored array, mapped; one of no bytes, which cannot be mapped, as it is."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except ValueError:
        empty = np.load(path, allow_pickle=False)
        if empty.size:
            raise
        return empty
