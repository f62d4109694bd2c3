"""Parses and validates the files of a data set: root manifest, shard index, tar headers.

Their content is untrusted: nothing is unpickled or extracted.

Data sets indexed by pipelines.stream.index_foreign hold third-party shards: their ids are any text that stays in its
folder, extensions are in lower case, and the tars may hold more members than the index lists.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from pipelines.manifest import is_id
from pipelines.storage import Folder

_SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_MAX_JSON_BYTES = 1 << 28
_MAX_HEADER_BYTES = 1 << 17  # a long name and a few attributes; some hundred headers may be in memory at once
# Line ends, terminal control characters, and bytes that are not UTF-8.
_UNPRINTABLE = re.compile(r"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_MEMBER_NAME = re.compile(r"(?!__[^/]*__(?:/|$))((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_MAX_NAME_LENGTH = 4096
_MAX_EMPTY_READS = 20


class CorruptDataError(Exception):
    """A file does not have the required format; the message says how."""


class Index(NamedTuple):
    """The index of a shard, SHARD.json.

    Attributes:
        entry: its content.
        ids: the ids of the clips, in the order of the tar.
        byte_ranges: (offset, size) in bytes of the data of each member, by ID.EXTENSION.
    """

    entry: dict[str, Any]
    ids: list[str]
    byte_ranges: dict[str, tuple[int, int]]


def read_manifest(out: Folder) -> tuple[dict[str, Any], str]:
    """Read and validate the root manifest.

    Returns:
        The manifest and "", or {} and a message that says what is wrong with it.
    """
    try:
        manifest = read_json(out, "manifest.json")
        if not isinstance(manifest, dict) or not isinstance(manifest.get("shards"), list):
            raise CorruptDataError("it has no list of shards")
        if wrong := [key for key in ("format", "rows", "written", "rejected") if not _is_count(manifest.get(key))]:
            raise CorruptDataError(f"{wrong[0]} is {manifest.get(wrong[0])!r}")
        for shard in manifest["shards"]:
            if not (isinstance(shard, dict) and isinstance(shard.get("name"), str) and is_shard_name(shard["name"])):
                raise CorruptDataError(f"invalid shard name: {shard!r}")
            has_counts = _is_count(shard.get("clips")) and _is_count(shard.get("size_bytes"))
            if not has_counts or not isinstance(shard.get("sha256"), str):
                raise CorruptDataError(
                    f"clips, size_bytes or sha256 of {shard['name']} are missing or have the wrong type"
                )
    except FileNotFoundError:
        return {}, f"{out}/manifest.json is missing: the data set is unfinished; run the same pipelines.build again"
    except CorruptDataError as error:
        return {}, f"{out}/manifest.json is not a manifest of shards: {error}"
    return manifest, ""


def read_index(out: Folder, shard: str, with_fingerprints: bool = False) -> Index:
    """Read and validate the index of a shard.

    Args:
        out: folder of the data set.
        shard: name of the shard, without `.tar`.
        with_fingerprints: require fingerprints of the media of rejected clips, which data sets of format 2 and later
            have.

    Raises:
        FileNotFoundError: the index does not exist.
        CorruptDataError: it is not an index that pipelines.build or pipelines.stream.index_foreign writes.
    """
    entry = read_json(out, f"{shard}.json")
    try:
        ids = [clip["id"] for clip in entry["members"]]
        is_valid = is_safe_name if entry.get("adopted") is True else is_id
        if invalid_ids := [i for i in ids if not (isinstance(i, str) and is_valid(i))]:
            raise CorruptDataError(f"{invalid_ids[0]!r} is not a valid id")
        byte_ranges = {
            f"{clip['id']}.{extension}": tuple(byte_range)
            for clip in entry["members"]
            for extension, byte_range in clip["files"].items()
        }
        if invalid := [name for name, pair in byte_ranges.items() if len(pair) != 2 or not all(map(_is_count, pair))]:
            raise CorruptDataError(f"offset and size of {invalid[0]} are {byte_ranges[invalid[0]]}")
        keys = ("id", "reason", "detail")
        if invalid_rows := [row for row in entry["rejected"] if {type(row[key]) for key in keys} != {str}]:
            raise CorruptDataError(f"invalid rejected row: {invalid_rows[0]}")
        fingerprints = entry["media_of_rejected"].keys() if with_fingerprints else set()
        if unknown := sorted(fingerprints - {row["id"] for row in entry["rejected"]}):
            raise CorruptDataError(f"media_of_rejected lists {unknown[0]}, which was not rejected")
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptDataError(f"not written by pipelines.build: {type(error).__name__} {error}") from None
    return Index(entry, ids, byte_ranges)


def is_shard_name(name: str) -> bool:
    """Whether a name, without `.tar`, is valid for a shard."""
    return _SHARD_NAME.fullmatch(name) is not None


def is_safe_name(name: str) -> bool:
    """Whether a member name of a third-party shard is safe: one printable line that does not leave its folder."""
    is_inside = not name.startswith("/") and ".." not in name.split("/")
    return 0 < len(name) <= _MAX_NAME_LENGTH and is_inside and not _UNPRINTABLE.search(name)


def key_and_extension(name: str) -> tuple[str, str] | None:
    """Split a member name as webdataset does: at the first dot of the last path component, the extension in lower case.

    Returns:
        Key and extension, or None for a name that webdataset skips.
    """
    match = _MEMBER_NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def tar_members(file: BinaryIO | HashingReader) -> Iterator[tarfile.TarInfo]:
    """Read the member headers of a tar forward, one at a time.

    Raises:
        CorruptDataError: the file is not a tar, a header is malformed or too large, or a member is truncated.
    """
    try:
        with tarfile.open(
            fileobj=_EofGuard(file),
            mode="r|",
            bufsize=1 << 16,
            tarinfo=_Header,
            encoding="utf-8",
            errors="surrogateescape",
        ) as tar:
            while (member := tar.next()) is not None:
                # tarfile keeps every header that it has read, in a list that is missing in its stubs
                tar.members.clear()  # type: ignore[attr-defined]
                # global headers accumulate
                if (size_bytes := sum(map(len, tar.pax_headers.values()))) > _MAX_HEADER_BYTES:
                    raise tarfile.ReadError(f"global headers of {size_bytes} bytes")
                yield member
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise CorruptDataError(str(error)) from None


def printable(text: str, max_length: int = 400) -> str:
    """Escape and shorten untrusted text to one line that is safe to print to a terminal."""
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:max_length])
    return escaped + ("..." if len(text) > max_length else "")


def read_json(out: Folder, name: str) -> Any:
    """Parse a JSON file of a data set.

    Raises:
        FileNotFoundError: the file does not exist.
        CorruptDataError: it cannot be read, is too large or is not JSON.
    """
    try:
        with out.open(name) as file:
            data = file.read(_MAX_JSON_BYTES + 1)
        if len(data) > _MAX_JSON_BYTES:
            raise ValueError(f"more than {_MAX_JSON_BYTES} bytes")
        return json.loads(data)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptDataError(f"{type(error).__name__} {error}") from None


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


class _EofGuard(io.RawIOBase):
    """Stops reads that continue at the end of a file: tarfile skips as far as a header says, 64 KiB at a time."""

    def __init__(self, file: BinaryIO | HashingReader) -> None:
        self._file, self._empty_reads = file, 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._empty_reads += not data
        if self._empty_reads > _MAX_EMPTY_READS:
            raise tarfile.ReadError("unexpected end of data")
        return data


class _Header(tarfile.TarInfo):
    """Rejects headers that tarfile would read into memory without a limit: extended headers and sparse files."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if header.size > _MAX_HEADER_BYTES and header.type in b"xgXLK":
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header

    def _reject_sparse(self, *_: object) -> None:
        raise tarfile.ReadError("a sparse file: tarfile would read its list of blocks into memory, however long")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _reject_sparse


class HashingReader:
    """Wraps a file and records the SHA-256 and the size of what is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.size_bytes = file, hashlib.sha256(), 0

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        self.size_bytes += len(data)
        return data
