"""Member index: one memory-mapped table of all clips of a data set: ids, labels, offset and size of every member.

It is built once from the JSON files next to the tars and stored as a folder of .npy files, named after the data set's
fingerprint. Processes may build it concurrently; the first to finish stores it. Limits: tars below 2 TiB, members below
4 GiB.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.errors import UsageError
from pipelines.modalities import MODALITIES
from pipelines.storage import Folder
from pipelines.stream import remote_retry

ALLOWED_TYPES = (*dict.fromkeys(kind for modality in MODALITIES for kind in modality.file_types), "json")
BLOCK_BYTES = 512  # a tar's members start at multiples of this
TABLE_FORMAT = 2
_READERS = 16
_COLUMNS = (
    "id_starts",
    "id_bytes",
    "label_starts",
    "label_numbers",
    "member_starts",
    "member_kinds",
    "member_blocks",
    "member_sizes",
)


class MemberTable(NamedTuple):
    """Columns over all clips, and over all members of all clips.

    Attributes:
        columns: id_starts, label_starts, member_starts, int64 [clips + 1]: where a clip's part of the other columns
            starts; id_bytes uint8; label_numbers uint32; member_kinds uint16; member_blocks, member_sizes uint32.
        extensions: indexed by member_kinds: `json`, `0.jpg`, ...
        labels: indexed by label_numbers.
    """

    columns: dict[str, np.ndarray]
    extensions: list[str]
    labels: list[str]


def load_or_build(path: Path, folder: Folder, shards: Sequence[dict[str, Any]]) -> MemberTable:
    """The stored table, or a new one, which is stored where that is possible.

    Args:
        path: folder of the stored table; where it cannot be written, each process holds a table in memory.
        folder: of the shards.
        shards: name, clips and size_bytes of each, from the manifest.

    Raises:
        UsageError: the JSON file of a shard cannot be read, does not match its tar, or lists members of a type that is
            not allowed.
        CommandFailed: a remote one cannot be fetched.
    """
    if stored := load(path):
        return stored
    built = _build(folder, shards)
    _store(path, built)
    return load(path) or built


def load(path: Path) -> MemberTable | None:
    """The stored table, memory-mapped; None where there is none. A damaged one is removed."""
    if not path.is_dir():
        return None
    try:
        names = json.loads((path / "names.json").read_text())
        # Plain arrays over the maps: slicing numpy's memmap class costs five times as much.
        columns = {
            name: np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray) for name in _COLUMNS
        }
        return MemberTable(columns, names["extensions"], names["labels"])
    except (OSError, ValueError, EOFError, KeyError):
        shutil.rmtree(path, ignore_errors=True)
        return None


def _build(folder: Folder, shards: Sequence[dict[str, Any]]) -> MemberTable:
    kinds: dict[str, int] = {}
    labels: dict[str, int] = {}
    parts: dict[str, list[np.ndarray]] = {}
    with ThreadPoolExecutor(_READERS) as threads:  # a remote folder answers many requests at once
        for first in range(0, len(shards), _READERS):
            some = shards[first : first + _READERS]
            for shard, clips in zip(some, threads.map(lambda shard: _read_shard(folder, shard), some), strict=True):
                for name, part in _shard_columns(folder, shard, clips, kinds, labels).items():
                    parts.setdefault(name, []).append(part)
    columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    for name in ("id", "label", "member"):
        columns[f"{name}_starts"] = np.concatenate([[0], np.cumsum(columns.pop(f"{name}_counts"))])
    return MemberTable(columns, list(kinds), list(labels))


def _read_shard(folder: Folder, shard: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        return remote_retry.read_json(folder, f"{shard['name']}.json", remote_retry.LONG_RETRY)["members"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{folder}/{shard['name']}.json, the index of a shard, cannot be read ({error}); build the data set again"
        ) from None


def _shard_columns(
    folder: Folder, shard: dict[str, Any], clips: list[dict[str, Any]], kinds: dict[str, int], labels: dict[str, int]
) -> dict[str, np.ndarray]:
    """One shard's part of the columns; new extensions and labels get the next numbers."""
    file = f"{folder}/{shard['name']}.json"
    members = np.array([span for clip in clips for span in clip["files"].values()], dtype=np.int64).reshape(-1, 2)
    names = [name for clip in clips for name in clip["files"]]
    if (
        len(clips) != shard["clips"]
        or (members < 0).any()
        or (members[:, 0] % BLOCK_BYTES).any()
        or (members.sum(axis=1) > shard["size_bytes"]).any()
    ):
        raise UsageError(
            f"{file} does not match its tar and manifest.json ({len(clips)} clips, {shard['clips']} stated); "
            "build the data set again"
        )
    for name in set(names) - kinds.keys():
        if name.rpartition(".")[2] not in ALLOWED_TYPES:
            raise UsageError(f"{file} lists a member .{name}: allowed types are {', '.join(ALLOWED_TYPES)}")
    ids = [clip["id"].encode() for clip in clips]
    clip_labels = [clip.get("labels", ()) for clip in clips]
    numbers = [labels.setdefault(label, len(labels)) for some in clip_labels for label in some]
    return {
        "id_counts": np.array([len(i) for i in ids], dtype=np.int64),
        "id_bytes": np.frombuffer(b"".join(ids), dtype=np.uint8),
        "label_counts": np.array([len(some) for some in clip_labels], dtype=np.int64),
        "label_numbers": np.array(numbers, dtype=np.uint32),
        "member_counts": np.array([len(clip["files"]) for clip in clips], dtype=np.int64),
        "member_kinds": np.array([kinds.setdefault(name, len(kinds)) for name in names], dtype=np.uint16),
        "member_blocks": (members[:, 0] // BLOCK_BYTES).astype(np.uint32),
        "member_sizes": members[:, 1].astype(np.uint32),
    }


def _store(path: Path, table: MemberTable) -> None:
    """Store the table as a folder that appears atomically; do nothing where it cannot be written or already exists."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=path.parent, ignore_cleanup_errors=True) as folder:
            temporary = Path(folder) / path.name  # in it, because the folder itself is private
            temporary.mkdir()
            for name, column in table.columns.items():
                with (temporary / f"{name}.npy").open("wb") as file:
                    np.save(file, column, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
            (temporary / "names.json").write_text(json.dumps({"extensions": table.extensions, "labels": table.labels}))
            temporary.rename(path)
