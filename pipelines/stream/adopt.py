"""Shards that others wrote (img2dataset, `wds.ShardWriter`, ...), given the index and the manifest that `DatasetIndex` reads; the tars stay as they are.

Only pictures, sounds, arrays and JSON are indexed; other members are left out and counted. What a tar of samples has no use for is refused: links and
devices, names that lead out of a folder, pickles, members over a size limit. Limits: compressed tars are not read; a clip's members must follow one
another, as webdataset wants it too.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

from configs.command import RunFailed, UsageError
from pipelines.data_set import Damaged, printable, tar_members
from pipelines.storage import LocalFolder, open_folder
from pipelines.stream.table import ALLOWED_TYPES

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)  # as webdataset takes a name apart: at the first dot of its last part
_PICKLES = ("pkl", "pickle", "pyd", "pth", "pt", "ckpt", "joblib", "dill")
_READ_BYTES = 1 << 20


def adopt(address: str, max_member_mb: float) -> int:
    """Write NAME.json beside each tar of a local folder, and manifest.json, ledger and statistics at the end.

    Returns:
        The exit code.

    Raises:
        UsageError: no tar there, or a data set of ours.
        RunFailed: a tar is cut off or hostile; nothing is written for it.
    """
    from tqdm import tqdm

    folder = open_folder(address)
    if not isinstance(folder, LocalFolder):
        raise UsageError(f"{address}: give a local folder; index the shards where they are written, then put the new files beside them")
    sizes = folder.sizes("*.tar")
    if not sizes:
        raise UsageError(f"{address}: no such folder, or no file in it ends with .tar")
    if folder.sizes("build.json"):
        raise UsageError(f"{address} is a data set of pipelines.build, which has its index already")
    entries, left_out = [], Counter[str]()
    for tar in tqdm(sorted(sizes), unit="shard", desc="index", disable=None):
        with folder.open(tar) as file:
            hashing = _HashingReader(file)
            try:
                members = _clips(hashing, max_member_mb * 1e6, left_out)
            except (Damaged, _Refused) as error:
                raise RunFailed(f"{address}/{tar} is not taken over: {printable(str(error))}") from None
        entry = {"name": tar.removesuffix(".tar"), "clips": len(members), "size_bytes": hashing.size_bytes, "sha256": hashing.digest.hexdigest()}
        _write_json(folder, f"{entry['name']}.json", entry | {"members": members, "rejected": [], "media_of_rejected": {}})
        entries.append(entry)
    clips, size_bytes = sum(entry["clips"] for entry in entries), sum(entry["size_bytes"] for entry in entries)
    with folder.whole_file("rejected.jsonl"):
        pass
    _write_json(folder, "stats.json", {"rows": clips, "written": clips, "rejected": {}, "size_bytes": size_bytes})
    fingerprint = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
    manifest = {"format": 2, "adopted": True, "fingerprint": fingerprint, "rows": clips, "written": clips, "rejected": 0, "shards": entries}
    _write_json(folder, "manifest.json", manifest)
    print(f"{'clips':<10}{clips:>10}   in {len(entries)} shards, {size_bytes / 1e6:.1f} MB")
    print(f"{'left out':<10}{left_out.total():>10}   {', '.join(f'{count} .{kind}' for kind, count in left_out.most_common(8))}".rstrip())
    return 0 if clips else 1


class _Refused(Exception):
    """A member that has no place in a tar of samples."""


def _clips(file: Any, max_bytes: float, left_out: Counter[str]) -> list[dict[str, Any]]:
    """The clips of a tar, in its order: id and the place of each member."""
    clips: dict[str, dict[str, tuple[int, int]]] = {}
    for member in _regular_members(file):
        match = _NAME.fullmatch(member.name)
        if not match:
            left_out["without a key"] += 1
            continue
        key, extension = match[1], match[2].lower()
        kind = extension.rpartition(".")[2]
        if kind in _PICKLES:
            raise _Refused(f"{member.name} may be a pickle, which runs code when it is read")
        if kind not in ALLOWED_TYPES:
            left_out[kind] += 1
            continue
        if member.size > max_bytes:
            raise _Refused(f"{member.name} has {member.size} bytes, more than max_member_mb={max_bytes / 1e6:g}")
        if key in clips and key != next(reversed(clips)):
            raise _Refused(f"the members of {key} do not follow one another")
        files = clips.setdefault(key, {})
        if extension in files:
            raise _Refused(f"{member.name} is there twice")
        files[extension] = (member.offset_data, member.size)
    while file.read(_READ_BYTES):  # the hash is that of the whole file
        pass
    return [{"id": key, "files": files} for key, files in clips.items()]


def _regular_members(file: Any) -> Iterator[tarfile.TarInfo]:
    for member in tar_members(file):
        if member.isdir():
            continue
        if not member.isreg():
            raise _Refused(f"{member.name} is a link or a device")
        if member.name.startswith("/") or ".." in member.name.split("/") or not member.name.isprintable():
            raise _Refused(f"the name {member.name!r} leads out of a folder, or is no text")
        if member.sparse is not None:
            raise _Refused(f"{member.name} is a sparse file")
        yield member


def _write_json(folder: LocalFolder, name: str, content: dict[str, Any]) -> None:
    with folder.whole_file(name) as file:
        file.write(json.dumps(content).encode())


class _HashingReader:
    """Reads through to a file, and keeps the hash and the size of what went by."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.size_bytes = file, hashlib.sha256(), 0

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        self.digest.update(data)
        self.size_bytes += len(data)
        return data
