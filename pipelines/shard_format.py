"""A written data set as it is on disk, read with suspicion: manifest, index of a shard, headers of a tar. Nothing in it is believed, opened or unpickled.

Adopted data sets are shards of others with an index of ours (stream/adopt.py): their ids are any text that stays in its folder, extensions are in lower
case, and their tars may hold more than is listed.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from pipelines.manifest import is_id
from pipelines.storage import Folder

_SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_MAX_JSON_BYTES = 1 << 28
_MAX_HEADER_BYTES = 1 << 17  # a long name, a few attributes; some hundred of these may be in memory at once
_NO_TEXT = re.compile(
    r"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
)  # what ends lines or steers terminals, and bytes that are no UTF-8
_NAME = re.compile(r"(?!__[^/]*__(?:/|$))((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_MAX_NAME_LENGTH = 4096


class CorruptDataError(Exception):
    """A file is not what it must be; the text says how."""


class Index(NamedTuple):
    """The JSON file of a shard."""

    entry: dict[str, Any]
    ids: list[str]
    places: dict[str, tuple[int, int]]  # (offset, size) in bytes of each member's data, by ID.EXTENSION


def read_manifest(out: Folder) -> tuple[dict[str, Any], str]:
    """The root manifest, in which shards are named like files and counts are counts; or {} and what is wrong with it."""
    try:
        manifest = read_json(out, "manifest.json")
        if not isinstance(manifest, dict) or not isinstance(manifest.get("shards"), list):
            raise CorruptDataError("it has no list of shards")
        if wrong := [key for key in ("format", "rows", "written", "rejected") if not _is_count(manifest.get(key))]:
            raise CorruptDataError(f"{wrong[0]} is {manifest.get(wrong[0])!r}")
        for shard in manifest["shards"]:
            if not (isinstance(shard, dict) and isinstance(shard.get("name"), str) and is_shard_name(shard["name"])):
                raise CorruptDataError(f"no file can have the name of its shard {shard!r}")
            if not (
                _is_count(shard.get("clips"))
                and _is_count(shard.get("size_bytes"))
                and isinstance(shard.get("sha256"), str)
            ):
                raise CorruptDataError(f"clips, size_bytes or sha256 of {shard['name']} are missing or of another type")
    except FileNotFoundError:
        return {}, f"{out}/manifest.json is missing: the data set is unfinished; run the same pipelines.build again"
    except CorruptDataError as error:
        return {}, f"{out}/manifest.json is not a manifest of shards: {error}"
    return manifest, ""


def read_index(out: Folder, shard: str, with_states: bool = False) -> Index:
    """The JSON file of a shard, from format 2 on `with_states` of rejected media; FileNotFoundError, or Damaged for what the build does not write."""
    entry = read_json(out, f"{shard}.json")
    try:
        ids = [clip["id"] for clip in entry["members"]]
        is_one = is_safe_name if entry.get("adopted") is True else is_id
        if wrong := [i for i in ids if not (isinstance(i, str) and is_one(i))]:
            raise CorruptDataError(f"{wrong[0]!r} is no id")
        places = {
            f"{clip['id']}.{kind}": tuple(place) for clip in entry["members"] for kind, place in clip["files"].items()
        }
        if wrong := [name for name, place in places.items() if len(place) != 2 or not all(map(_is_count, place))]:
            raise CorruptDataError(f"offset and size of {wrong[0]} are {places[wrong[0]]}")
        if wrong := [
            row for row in entry["rejected"] if {type(row[key]) for key in ("id", "reason", "detail")} != {str}
        ]:
            raise CorruptDataError(f"{wrong[0]} is no rejected row")
        states = entry["media_of_rejected"].keys() if with_states else set()
        if wrong := sorted(states - {row["id"] for row in entry["rejected"]}):
            raise CorruptDataError(f"media_of_rejected knows {wrong[0]}, which was not rejected")
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptDataError(f"not what pipelines.build writes: {type(error).__name__} {error}") from None
    return Index(entry, ids, places)


def is_shard_name(name: str) -> bool:
    """Whether a shard may be called this, without `.tar`."""
    return _SHARD_NAME.fullmatch(name) is not None


def is_safe_name(name: str) -> bool:
    """Whether a member of others' shards may have this name: text of one line that leads out of no folder."""
    return (
        0 < len(name) <= _MAX_NAME_LENGTH
        and not name.startswith("/")
        and ".." not in name.split("/")
        and not _NO_TEXT.search(name)
    )


def key_and_extension(name: str) -> tuple[str, str] | None:
    """A member's name taken apart as webdataset does: at the first dot of its last part, the extension in lower case; None: webdataset leaves it out."""
    match = _NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def tar_members(file: Any) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar, read forward, one at a time, up to a broken one; Damaged where this is no tar, or a member is cut off."""
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
                tar.members.clear()
                if (
                    size_bytes := sum(map(len, tar.pax_headers.values()))
                ) > _MAX_HEADER_BYTES:  # those for all members pile up
                    raise tarfile.ReadError(f"headers of {size_bytes} bytes for all members")
                yield member
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise CorruptDataError(str(error)) from None


def printable(text: str, most: int = 400) -> str:
    """Text of unknown origin as one line that does nothing to a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most]) + ("..." if len(text) > most else "")


def read_json(out: Folder, name: str) -> Any:
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


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


class _EofGuard:
    """Reads through to a file, and stops who goes on at its end: tarfile steps to where a header says, however far that is, 64 KiB at a time."""

    def __init__(self, file: Any) -> None:
        self._file, self._empty = file, 0

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        self._empty += not data
        if self._empty > 20:
            raise tarfile.ReadError("unexpected end of data")
        return data


class _Header(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if header.size > _MAX_HEADER_BYTES and header.type in b"xgXLK":  # tarfile would read it into memory
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header

    def _refuse_sparse(self, *_: Any) -> None:
        raise tarfile.ReadError("a sparse file, of which tarfile would read a list of any length into memory")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


class HashingReader:
    """Reads through to a file, and keeps the hash and the size of what went by."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.size_bytes = file, hashlib.sha256(), 0

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        self.digest.update(data)
        self.size_bytes += len(data)
        return data
