"""Shards that others wrote (img2dataset, video2dataset, `wds.ShardWriter`, ...), given the index and the manifest that `DatasetIndex` reads; the tars stay
as they are, and no file of others is overwritten.

Only pictures, sounds, arrays and JSON are indexed; other members are left out and counted. What a tar of samples has no use for is refused: links and
devices, names that lead out of a folder, pickles, members over a size limit, anything cut off or joined on. Nothing is decoded or unpacked, and unless
every tar passes nothing is written. Limits: local folders; no compressed tars; a clip's members must follow one another, as webdataset wants it too; every
run reads all tars again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

from configs.errors import CommandFailed, UsageError
from pipelines.shard_format import (
    CorruptDataError,
    HashingReader,
    is_safe_name,
    is_shard_name,
    key_and_extension,
    printable,
    tar_members,
)
from pipelines.storage import LocalFolder, open_folder
from pipelines.stream.member_index import ALLOWED_TYPES, BLOCK_BYTES

_MEDIA = set(ALLOWED_TYPES) - {"json", "npy"}
_PICKLES = ("pkl", "pickle", "pyd", "pth", "pt", "ckpt", "joblib", "dill")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
_OURS = b'{"adopted": true, '  # what each JSON file written here begins with
_MAX_EXTENSIONS = 10_000  # more are keys with dots in them
_TOO_MANY_EXTENSIONS = (
    f"more than {_MAX_EXTENSIONS} extensions; a key ends at the first dot of a name, so there can be none in it"
)
_MAX_MEMBER_BYTES = (1 << 32) - 1  # what the table can say
_READ_BYTES = 1 << 20


def index_foreign_shards(address: str, max_member_mb: float) -> int:
    """Write NAME.json beside each tar of a local folder, and manifest.json, ledger and statistics.

    Args:
        address: the folder.
        max_member_mb: larger members of the types that are indexed are refused.

    Returns:
        The exit code.

    Raises:
        UsageError: no tar there, a data set of ours, or files of others in the way.
        CommandFailed: a tar is damaged or hostile, or the folder cannot be written; nothing is written.
    """
    folder = open_folder(address)
    if not isinstance(folder, LocalFolder):
        raise UsageError(
            f"{address}: give a local folder; index the shards where they are written, then put the new files beside them"
        )
    sizes = folder.sizes("*.tar") if folder.path.is_dir() else {}
    if not sizes:
        raise UsageError(f"{address}: no such folder, or no file in it ends with .tar")
    names = [name.removesuffix(".tar") for name in sorted(sizes)]
    with folder.folder_lock():
        _check_free(folder, names)
        with _scratch(folder) as scratch:
            entries, members, left_out = _adopt_all(
                folder, names, sizes, scratch, min(max_member_mb * 1e6, _MAX_MEMBER_BYTES)
            )
            _check_worth(address, members, left_out)
            _write_summary(scratch, entries)
            for name in ("rejected.jsonl", "stats.json", *(f"{name}.json" for name in names)):
                (scratch.path / name).replace(folder.path / name)
            with folder.atomic_open("manifest.json") as file:
                file.write((scratch.path / "manifest.json").read_bytes())
    clips, size_bytes = (sum(entry[key] for entry in entries) for key in ("clips", "size_bytes"))
    print(f"{'clips':<10}{clips:>10}   in {len(entries)} shards, {size_bytes / 1e6:.1f} MB")
    print(f"{'members':<10}{members.total():>10}   {_listed(members)}")
    print(f"{'left out':<10}{left_out.total():>10}   {_listed(left_out)}".rstrip())
    return 0


_All = tuple[list[dict[str, Any]], Counter[str], Counter[str]]  # entries, members by type, what was left out


class _Read(NamedTuple):
    """What is told of a tar that was read: its entry in the manifest, its extensions, members by type, and what was left out."""

    entry: dict[str, Any]
    extensions: set[str]
    members: Counter[str]
    left_out: Counter[str]


class _Refused(Exception):
    """A member that has no place in a tar of samples, or something else no tar of samples has."""


def _check_free(folder: LocalFolder, names: Sequence[str]) -> None:
    """See to it that nobody else's file has a name that is needed."""
    if folder.sizes("build.json"):
        raise UsageError(
            f"{folder} is a data set of pipelines.build, which has its index already; python -m pipelines.verify {folder} tells if it is whole"
        )
    for name in names:
        if not is_shard_name(name) or name in ("manifest", "stats"):
            raise UsageError(
                f"{folder}/{printable(name)}.tar: rename or remove it; shards have names of A-Z a-z 0-9 _ - . and not manifest or stats"
            )
    there = folder.sizes()
    for name in ("manifest.json", "stats.json", *(f"{name}.json" for name in names)):
        if name in there and not _begins(folder, name, _OURS):
            raise UsageError(
                f"{folder}/{name} is there and not written by this command: move it away, or make a folder of links to the tars and give that"
            )
    if there.get("rejected.jsonl"):
        raise UsageError(
            f"{folder}/rejected.jsonl is there and not written by this command: move it away, or make a folder of links to the tars and give that"
        )


def _begins(folder: LocalFolder, name: str, wanted: bytes) -> bool:
    with folder.open(name) as file:
        return file.read(len(wanted)) == wanted


@contextlib.contextmanager
def _scratch(folder: LocalFolder) -> Iterator[LocalFolder]:
    """A folder beside the tars for what is written before all of them have passed."""
    try:
        made = folder.scratch()
    except OSError as error:
        raise CommandFailed(
            f"{folder} cannot be written ({error.strerror}): make a folder of links to the tars in a place of yours and give that"
        ) from None
    with made as path:
        yield LocalFolder(path)


def _adopt_all(
    folder: LocalFolder, names: Sequence[str], sizes: dict[str, int], scratch: LocalFolder, max_bytes: float
) -> _All:
    """Read the tars, several at once; the first that is refused, in their order, ends it."""
    from tqdm import tqdm

    entries, extensions, members, left_out = [], set[str](), Counter[str](), Counter[str]()
    pool = ThreadPoolExecutor(
        max(1, min(len(os.sched_getaffinity(0)), len(names)))
    )  # hashing and reading let go of the interpreter
    try:
        with tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, desc="index", disable=None) as bar:
            for tar in pool.map(lambda name: _adopt_tar(folder, name, scratch, max_bytes), names):
                entries.append(tar.entry)
                extensions |= tar.extensions
                members += tar.members
                left_out += tar.left_out
                if len(extensions) > _MAX_EXTENSIONS:
                    raise CommandFailed(
                        f"{folder}: {_TOO_MANY_EXTENSIONS}, such as .{printable(next(iter(tar.extensions)))}"
                    )
                bar.update(tar.entry["size_bytes"])
    finally:
        pool.shutdown(cancel_futures=True)
    return entries, members, left_out


def _adopt_tar(folder: LocalFolder, name: str, scratch: LocalFolder, max_bytes: float) -> _Read:
    tar = f"{folder}/{name}.tar"
    try:
        with folder.open(f"{name}.tar") as file, folder.open(f"{name}.tar") as aside:
            hashing = _HashingReader(file)
            clips, left_out = _clips(hashing, aside, max_bytes)
    except _Refused as error:
        raise CommandFailed(f"{tar} is not taken over: {printable(str(error))}") from None
    except CorruptDataError as error:
        kind = next((kind for magic, kind in _COMPRESSED.items() if _begins(folder, f"{name}.tar", magic)), "")
        raise CommandFailed(
            f"{tar} is no readable tar: {f'it is compressed ({kind}), unpack it first' if kind else printable(str(error))}"
        ) from None
    except OSError as error:
        raise CommandFailed(f"{tar} cannot be read: {error.strerror or error}") from None
    entry = {"name": name, "clips": len(clips), "size_bytes": hashing.size_bytes, "sha256": hashing.digest.hexdigest()}
    listed = [{"id": key, "files": files} for key, files in clips.items()]
    _write_json(scratch, f"{name}.json", entry | {"members": listed, "rejected": [], "media_of_rejected": {}})
    extensions = Counter(extension for files in clips.values() for extension in files)
    members = Counter[str]()
    for extension, count in extensions.items():
        members[extension.rpartition(".")[2]] += count
    return _Read(entry, set(extensions), members, left_out)


def _clips(
    file: _HashingReader, aside: BinaryIO, max_bytes: float
) -> tuple[dict[str, dict[str, tuple[int, int]]], Counter[str]]:
    """The place of each member of each clip of a tar, in its order, and what was left out.

    Args:
        aside: the same file, to look into members.
    """
    clips: dict[str, dict[str, tuple[int, int]]] = {}
    left_out, end = Counter[str](), 0
    for member in tar_members(file):
        if not (member.isreg() or member.isdir()):
            raise _Refused(f"{member.name} is a link, a device or the like")
        if not is_safe_name(member.name) or member.size < 0:
            raise _Refused(f"a name that leads out of its folder or is no text, or a size below 0: {member.name!r}")
        end = member.offset_data + (-(-member.size // BLOCK_BYTES) * BLOCK_BYTES if member.isreg() else 0)
        split = key_and_extension(member.name) if member.isreg() else None
        if not split:
            left_out["without a key"] += member.isreg()
            continue
        key, extension = split
        kind = extension.rpartition(".")[2]
        if kind in _PICKLES:
            raise _Refused(f"{member.name} may be a pickle, which runs code when it is read")
        if kind not in ALLOWED_TYPES:
            left_out[f".{kind}"] += 1
            continue
        if member.size > max_bytes:
            raise _Refused(f"{member.name} has {member.size} bytes, more than max_member_mb={max_bytes / 1e6:g}")
        if key in clips and key != next(reversed(clips)):
            raise _Refused(
                f"the members of {key} do not follow one another; pack the tar in the order of names: tar --sort=name"
            )
        files = clips.setdefault(key, {})
        if extension in files:
            raise _Refused(f"{member.name} is there twice")
        files[extension] = (member.offset_data, member.size)
        if kind == "npy":
            _check_array(aside, member.name, member.offset_data)
    while file.read(_READ_BYTES):  # the hash is that of the whole file
        pass
    if file.content_bytes > end:
        raise _Refused(
            f"what follows its member at byte {end} is no member: it is damaged there, cut off, or several tars in one file"
        )
    if file.size_bytes < end + BLOCK_BYTES:
        raise _Refused(f"it is cut off at byte {file.size_bytes}: a tar ends with zeros")
    return clips, left_out


def _check_array(file: BinaryIO, name: str, offset: int) -> None:
    """Read an array's header only: one of Python objects holds a pickle, and one that claims to be large is none of our business yet."""
    from numpy.lib import format as npy

    file.seek(offset)
    try:
        reads = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        _, _, dtype = reads[npy.read_magic(file)](file)
    except Exception as error:  # NumPy evaluates a text that may be anything
        raise _Refused(f"{name} is no array that NumPy writes: {type(error).__name__} {error}") from None
    if dtype.hasobject:
        raise _Refused(f"{name} holds Python objects, that is a pickle, which runs code when it is read")


def _check_worth(address: str, members: Counter[str], left_out: Counter[str]) -> None:
    if not _MEDIA & members.keys():
        raise CommandFailed(
            f"{address}: its tars hold no picture and no sound ({', '.join(sorted(_MEDIA))}), only {_listed(members + left_out) or 'nothing'}; "
            "whole videos first have to be decoded: unpack them, then python -m pipelines.build source.kind=folder"
        )


def _write_summary(folder: LocalFolder, entries: Sequence[dict[str, Any]]) -> None:
    clips, size_bytes = (sum(entry[key] for entry in entries) for key in ("clips", "size_bytes"))
    with folder.atomic_open("rejected.jsonl"):
        pass
    _write_json(folder, "stats.json", {"rows": clips, "written": clips, "rejected": {}, "size_bytes": size_bytes})
    fingerprint = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
    _write_json(
        folder,
        "manifest.json",
        {"format": 2, "fingerprint": fingerprint, "rows": clips, "written": clips, "rejected": 0, "shards": entries},
    )


def _write_json(folder: LocalFolder, name: str, content: dict[str, Any]) -> None:
    data = json.dumps({"adopted": True} | content).encode()
    assert data.startswith(_OURS)
    with folder.atomic_open(name) as file:
        file.write(data)


def _listed(counts: Counter[str]) -> str:
    return printable(", ".join(f"{count} {kind}" for kind, count in counts.most_common(8)))


class _HashingReader(HashingReader):
    """A HashingReader that also knows where the zeros begin with which the file ends."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.content_bytes = 0

    def read(self, count: int) -> bytes:
        before, data = self.size_bytes, super().read(count)
        if content := data.rstrip(b"\0"):
            self.content_bytes = before + len(content)
        return data
