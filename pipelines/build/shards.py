"""Builds one shard: a tar that stock webdataset reads, and a JSON file with its index, its hash and its rejected rows.

The same clips give the same bytes (tar_writer.py). A shard is complete when its JSON file exists: it is written after
the tar, and both are written atomically (pipelines/storage).
"""

import hashlib
import io
import json
import stat
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.build.build_spec import BuildSpec
from pipelines.build.decode_worker import DecodingProcess
from pipelines.build.tar_writer import add_members, open_tar_writer
from pipelines.manifest import Clip, Rejected, RejectedClip, with_existing_media
from pipelines.storage import LocalFolder, read, write

Entry = dict[str, Any]  # the content of the JSON file of a shard
_END_BYTES = 65536


def build_shard(
    spec: BuildSpec,
    number: int,
    rows: Sequence[Clip | Rejected],
    process: DecodingProcess,
    on_clips: Callable[[int, int], None],
) -> None:
    """Build one shard, unless it is complete.

    Args:
        spec: the data set.
        number: number of the shard, from 0.
        rows: its rows, in order.
        process: decodes the clips.
        on_clips: progress callback, called with (finished rows, rejected rows among them).
    """
    name = spec.name(number)
    earlier = read_complete_shard(spec, name)
    changed = _changed_rejects(spec, rows, earlier) if earlier and spec.retry else set()
    if earlier and not changed:
        on_clips(len(rows), len(earlier["rejected"]))
        return
    process.start()  # before the first file: a build that is killed while a process starts leaves its trace
    known = {rejected["id"]: rejected for rejected in earlier["rejected"]} if earlier else {}
    stored = {member["id"]: member["files"] for member in earlier["members"]} if earlier else {}
    members: list[Entry] = []
    rejected: list[Rejected] = []
    states: dict[str, str] = {}
    cut = 0
    with (
        spec.out.open(f"{name}.tar") if earlier else io.BytesIO() as earlier_tar,
        spec.out.atomic_open(f"{name}.tar") as file,
    ):
        hashing = _HashingWriter(file)
        with open_tar_writer(hashing) as tar:
            for row in rows:
                if isinstance(row, Clip):
                    try:
                        if earlier and row.id in known and row.id not in changed:
                            raise RejectedClip(known[row.id]["reason"], known[row.id]["detail"])
                        ranges = stored.get(row.id)
                        files = read_members(earlier_tar, ranges) if ranges else process.encode(row)
                        cut += b'"full_duration_s"' in files["json"]
                        members.append({"id": row.id, "labels": row.labels, "files": add_members(tar, row.id, files)})
                    except RejectedClip as error:
                        states[row.id] = media_fingerprint(spec.root, row)
                        row = Rejected(row.id, error.reason, error.detail)
                if isinstance(row, Rejected):
                    rejected.append(row)
                on_clips(1, isinstance(row, Rejected))
    entry = {
        "name": name,
        "clips": len(members),
        "size_bytes": hashing.size_bytes,
        "sha256": hashing.digest.hexdigest(),
        "recipe": spec.build_hash,
    }
    if cut:
        entry["cut"] = cut
    entry |= {"members": members, "rejected": [asdict(r) for r in rejected], "media_of_rejected": states}
    write(spec.out, f"{name}.json", json.dumps(entry).encode())


def read_complete_shard(spec: BuildSpec, name: str) -> Entry | None:
    """The index of a shard if its tar matches it and both belong to this data set, else None."""
    try:
        entry = json.loads(read(spec.out, f"{name}.json"))
        same = entry["recipe"] == spec.build_hash and spec.out.size_bytes(f"{name}.tar") == entry["size_bytes"]
        # A remote store has checked what it received, and reading it back would cost a download.
        if same and isinstance(spec.out, LocalFolder):
            with spec.out.open(f"{name}.tar") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return entry if same else None


def _changed_rejects(spec: BuildSpec, rows: Sequence[Clip | Rejected], entry: Entry) -> set[str]:
    states = entry["media_of_rejected"]
    return {
        row.id
        for row in rows
        if isinstance(row, Clip) and row.id in states and media_fingerprint(spec.root, row) != states[row.id]
    }


def media_fingerprint(root: Path, clip: Clip) -> str:
    """Fingerprint of the files of a clip: size, and hash of the first and last 64 KiB of each; the same for a copy."""
    media = with_existing_media(clip, root).media
    return " ".join(_file_fingerprint(root / name) for name in (media, clip.image) if name)


def _file_fingerprint(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "no regular file"
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_END_BYTES))
            size_bytes = file.seek(0, io.SEEK_END)
            file.seek(max(0, size_bytes - _END_BYTES))
            digest.update(file.read(_END_BYTES))
        return f"{size_bytes}-{digest.hexdigest()[:16]}"
    except OSError as error:
        return error.strerror or ""


def read_members(tar: BinaryIO, byte_ranges: dict[str, tuple[int, int]]) -> dict[str, bytes]:
    """The members of a clip, by extension, from what `add_members` returned for it."""
    members = {}
    for extension, (offset, size) in byte_ranges.items():
        tar.seek(offset)
        members[extension] = tar.read(size)
    return members


class _HashingWriter(io.RawIOBase):
    """Wraps a file and records the SHA-256 and the size of what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.size_bytes = file, hashlib.sha256(), 0

    def write(self, data: Any, /) -> int:
        self.digest.update(data)
        written = self._file.write(data)
        self.size_bytes += written
        return written
