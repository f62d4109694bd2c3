"""One shard: a tar that stock webdataset reads, and beside it a JSON file with index, hash and ledger.

Headers hold no time, user or order of arrival, so the same clips give the same bytes. A shard is whole when its JSON file is there, which is written
after the tar is: both appear by write-to-temporary, fsync, rename.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from configs.schema import DecodeConfig
from pipelines.build.rows import RowTable
from pipelines.build.worker import DecodingProcess
from pipelines.manifest import Rejected, RejectedClip
from pipelines.whole_file import whole_file


@dataclass(frozen=True)
class BuildJob:
    """What every shard of a data set is built from.

    Attributes:
        rows: all rows in their order; row i belongs to shard i // clips_per_shard.
        root: folder the rows' paths start from.
        out: folder of the shards.
        split: start of the shards' names.
        clips_per_shard: rows dealt to each shard.
        decode: how clips are decoded.
        recipe: hash of rows and settings; a shard of another recipe is not taken for one of this job.
    """

    rows: RowTable
    root: Path
    out: Path
    split: str
    clips_per_shard: int
    decode: DecodeConfig
    recipe: str

    @property
    def shards(self) -> int:
        return -(-len(self.rows) // self.clips_per_shard)

    def name(self, number: int) -> str:
        return f"{self.split}-{number:06d}"


def build_shard(job: BuildJob, number: int, process: DecodingProcess, on_clips: Callable[[int, int], None]) -> None:
    """Build one shard, unless it is there and whole.

    Args:
        job: the data set.
        number: of the shard, from 0.
        process: decodes the clips.
        on_clips: told of progress as (rows done, those of them turned away).
    """
    name = job.name(number)
    if found := _whole_shard(job, name):
        on_clips(found["clips"] + len(found["rejected"]), len(found["rejected"]))
        return
    members: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    first = number * job.clips_per_shard
    with whole_file(job.out / f"{name}.tar") as file:
        hashing = _HashingFile(file)
        with tarfile.open(fileobj=hashing, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[arg-type]
            for row in job.rows.read(first, first + job.clips_per_shard):
                if not isinstance(row, Rejected):
                    try:
                        members.append({"id": row.id, "files": _add(tar, row.id, process.encode(row))})
                    except RejectedClip as error:
                        row = Rejected(row.id, error.reason, error.detail)
                if isinstance(row, Rejected):
                    rejected.append(row)
                on_clips(1, isinstance(row, Rejected))
    entry = {"name": name, "clips": len(members), "size_bytes": hashing.size_bytes, "sha256": hashing.digest.hexdigest(), "recipe": job.recipe}
    content = json.dumps(entry | {"members": members, "rejected": [asdict(r) for r in rejected]})
    with whole_file(job.out / f"{name}.json") as file:
        file.write(content.encode())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(tar: tarfile.TarFile, key: str, files: dict[str, bytes]) -> dict[str, tuple[int, int]]:
    """Append a clip's members; returns (offset, size) of the data of each."""
    places = {}
    for extension, data in files.items():
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size = len(data)
        start = tar.offset
        tar.addfile(header, io.BytesIO(data))
        places[extension] = (start + tarfile.BLOCKSIZE, len(data))
    return places


def _whole_shard(job: BuildJob, name: str) -> dict[str, Any] | None:
    """The JSON file of a shard of this job whose tar is what the file says; None when anything is missing or different."""
    tar = job.out / f"{name}.tar"
    try:
        entry = json.loads((job.out / f"{name}.json").read_bytes())
        same = entry["recipe"] == job.recipe and tar.stat().st_size == entry["size_bytes"] and file_sha256(tar) == entry["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return entry if same else None


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
