"""One shard: a tar that stock webdataset reads, and beside it a JSON file with index, hash and ledger.

Headers hold no time, user or order of arrival, so the same clips give the same bytes. A shard is whole when its JSON file is there, which is written
after the tar is: both appear at once or not at all (`pipelines/storage.py`).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

from pipelines.build.build_spec import BuildJob
from pipelines.build.decode.container import media_fingerprint
from pipelines.build.decode_worker import DecodingProcess
from pipelines.manifest import Clip, Rejected, RejectedClip
from pipelines.storage import Folder, LocalFolder, read

Entry = dict[str, Any]  # the JSON file of a shard


def build_shard(
    job: BuildJob,
    number: int,
    rows: Sequence[Clip | Rejected],
    process: DecodingProcess,
    on_clips: Callable[[int, int], None],
) -> None:
    """Build one shard, unless it is there and whole.

    Args:
        job: the data set.
        number: of the shard, from 0.
        rows: its rows, in their order.
        process: decodes the clips.
        on_clips: told of progress as (rows done, those of them turned away).
    """
    name = job.name(number)
    earlier = read_complete_shard(job, name)
    again = _changed_rejects(job, rows, earlier) if earlier and job.retry else set()
    if earlier and not again:
        on_clips(len(rows), len(earlier["rejected"]))
        return
    known = {rejected["id"]: rejected for rejected in earlier["rejected"]} if earlier else {}
    members: list[Entry] = []
    rejected: list[Rejected] = []
    states: dict[str, str] = {}
    with _Members(job.out, earlier) as stored, job.out.atomic_open(f"{name}.tar") as file:
        hashing = _HashingFile(file)
        with tarfile.open(fileobj=hashing, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[arg-type]
            for row in rows:
                if isinstance(row, Clip):
                    try:
                        if earlier and row.id in known and row.id not in again:
                            raise RejectedClip(known[row.id]["reason"], known[row.id]["detail"])
                        files = stored.of(row.id) or process.encode(row)
                        members.append({"id": row.id, "labels": row.labels, "files": add_members(tar, row.id, files)})
                    except RejectedClip as error:
                        states[row.id] = media_fingerprint(job.root, row)
                        row = Rejected(row.id, error.reason, error.detail)
                if isinstance(row, Rejected):
                    rejected.append(row)
                on_clips(1, isinstance(row, Rejected))
    entry = {
        "name": name,
        "clips": len(members),
        "size_bytes": hashing.size_bytes,
        "sha256": hashing.digest.hexdigest(),
        "recipe": job.recipe,
    }
    content = json.dumps(
        entry | {"members": members, "rejected": [asdict(r) for r in rejected], "media_of_rejected": states}
    )
    with job.out.atomic_open(f"{name}.json") as file:
        file.write(content.encode())


def read_complete_shard(job: BuildJob, name: str) -> Entry | None:
    """The JSON file of a shard of this job whose tar is what the file says; None when anything is missing or different."""
    try:
        entry = json.loads(read(job.out, f"{name}.json"))
        same = entry["recipe"] == job.recipe and job.out.size_bytes(f"{name}.tar") == entry["size_bytes"]
        if same and isinstance(
            job.out, LocalFolder
        ):  # a remote store has checked what it was sent, and reading it back costs a download
            with job.out.open(f"{name}.tar") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return entry if same else None


def _changed_rejects(job: BuildJob, rows: Sequence[Clip | Rejected], entry: Entry) -> set[str]:
    """Ids of rejected clips whose media are not what they were."""
    states = entry["media_of_rejected"]
    return {
        row.id
        for row in rows
        if isinstance(row, Clip) and row.id in states and media_fingerprint(job.root, row) != states[row.id]
    }


def add_members(tar: tarfile.TarFile, key: str, files: dict[str, bytes]) -> dict[str, tuple[int, int]]:
    """Append a clip's members; returns (offset, size) of the data of each."""
    places = {}
    for extension, data in files.items():
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size = len(data)
        start = tar.offset
        tar.addfile(header, io.BytesIO(data))
        places[extension] = (start + tarfile.BLOCKSIZE, len(data))
    return places


class _Members:
    """The clips of a shard that is there already, to be taken over; none without an entry."""

    def __init__(self, folder: Folder, entry: Entry | None) -> None:
        self._folder, self._name = folder, f"{entry['name']}.tar" if entry else ""
        self._places = {member["id"]: member["files"] for member in entry["members"]} if entry else {}

    def __enter__(self) -> _Members:
        self._file = self._folder.open(self._name) if self._name else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def of(self, clip_id: str) -> dict[str, bytes]:
        files = {}
        for extension, (offset, size) in self._places.get(clip_id, {}).items():
            assert self._file is not None
            self._file.seek(offset)
            files[extension] = self._file.read(size)
        return files


class _HashingFile:
    """Writes through to a file, and keeps the hash and the size of what went by."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.size_bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size_bytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size_bytes
