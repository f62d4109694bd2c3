"""Index one third-party tar: offset and size of each member of each clip. Nothing is decoded or unpacked.

Images, audio, arrays and JSON are indexed; members of other types are skipped and counted. A tar is rejected for what
no tar of samples needs: links and devices, names that point outside the folder, pickles, members over a size limit,
truncated or concatenated files. Limits: no compressed tars; a clip's members must be consecutive, as webdataset
requires too.
"""

from collections import Counter
from typing import Any, BinaryIO

from configs.errors import CommandFailed
from pipelines.shard_format import (
    CorruptDataError,
    HashingReader,
    is_safe_name,
    key_and_extension,
    printable,
    tar_members,
)
from pipelines.storage import LocalFolder
from pipelines.stream.member_index import ALLOWED_TYPES, BLOCK_BYTES

PICKLE_TYPES = ("pkl", "pickle", "pyd", "pth", "pt", "ckpt", "joblib", "dill")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
_READ_BYTES = 1 << 20

Clips = dict[str, dict[str, tuple[int, int]]]  # key -> extension -> (offset, size) in bytes


class _RejectedTar(Exception):
    """The tar contains a member, or something else, that is not allowed."""


class _TailReader(HashingReader):
    """A HashingReader that also knows where the zeros at the end of the file start."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.content_bytes = 0

    def read(self, count: int) -> bytes:
        before, data = self.size_bytes, super().read(count)
        if content := data.rstrip(b"\0"):
            self.content_bytes = before + len(content)
        return data


def index_tar(folder: LocalFolder, name: str, max_bytes: float) -> tuple[dict[str, Any], Clips, Counter[str]]:
    """Index one tar of a folder.

    Args:
        folder: the folder.
        name: of the tar, without `.tar`.
        max_bytes: a larger member of an indexed type rejects the tar.

    Returns:
        The tar's entry in a manifest, its clips in the order of the tar, and the number of members that were not
        indexed, by type.

    Raises:
        CommandFailed: the tar is rejected or cannot be read.
    """
    tar = f"{folder}/{name}.tar"
    try:
        with folder.open(f"{name}.tar") as file, folder.open(f"{name}.tar") as random_access:
            hashing = _TailReader(file)
            clips, skipped = _scan(hashing, random_access, max_bytes)
    except _RejectedTar as error:
        raise CommandFailed(f"{tar} is rejected: {printable(str(error))}") from None
    except CorruptDataError as error:
        kind = next((kind for magic, kind in _COMPRESSED.items() if starts_with(folder, f"{name}.tar", magic)), "")
        reason = f"it is compressed ({kind}), decompress it first" if kind else printable(str(error))
        raise CommandFailed(f"{tar} is not a readable tar: {reason}") from None
    except OSError as error:
        raise CommandFailed(f"{tar} cannot be read: {error.strerror or error}") from None
    sha256 = hashing.digest.hexdigest()
    return {"name": name, "clips": len(clips), "size_bytes": hashing.size_bytes, "sha256": sha256}, clips, skipped


def starts_with(folder: LocalFolder, name: str, data: bytes) -> bool:
    """Whether a file starts with these bytes."""
    with folder.open(name) as file:
        return file.read(len(data)) == data


def _scan(file: _TailReader, random_access: BinaryIO, max_bytes: float) -> tuple[Clips, Counter[str]]:
    """Clips and skipped members; `random_access` is the same file, to look into members."""
    clips: Clips = {}
    skipped, end = Counter[str](), 0
    for member in tar_members(file):
        if not (member.isreg() or member.isdir()):
            raise _RejectedTar(f"{member.name} is a link, a device or another special file")
        if not is_safe_name(member.name) or member.size < 0:
            raise _RejectedTar(
                f"a name that points outside the folder or is not text, or a size below 0: {member.name!r}"
            )
        end = member.offset_data + (-(-member.size // BLOCK_BYTES) * BLOCK_BYTES if member.isreg() else 0)
        split = key_and_extension(member.name) if member.isreg() else None
        if not split:
            skipped["without a key"] += member.isreg()
            continue
        key, extension = split
        kind = extension.rpartition(".")[2]
        if kind in PICKLE_TYPES:
            raise _RejectedTar(f"{member.name} may be a pickle, which runs code when it is read")
        if kind not in ALLOWED_TYPES:
            skipped[f".{kind}"] += 1
            continue
        if member.size > max_bytes:
            raise _RejectedTar(f"{member.name} has {member.size} bytes, more than max_member_mb={max_bytes / 1e6:g}")
        if key in clips and key != next(reversed(clips)):
            raise _RejectedTar(f"the members of {key} are not consecutive; pack the tar sorted: tar --sort=name")
        files = clips.setdefault(key, {})
        if extension in files:
            raise _RejectedTar(f"{member.name} occurs twice")
        files[extension] = (member.offset_data, member.size)
        if kind == "npy":
            _check_array_header(random_access, member.name, member.offset_data)
    while file.read(_READ_BYTES):  # the hash covers the whole file
        pass
    if file.content_bytes > end:
        raise _RejectedTar(
            f"the bytes after its last member, at {end}, are not a member: it is damaged there, truncated, "
            "or several tars in one file"
        )
    if file.size_bytes < end + BLOCK_BYTES:
        raise _RejectedTar(f"it is truncated at byte {file.size_bytes}: a tar ends with zeros")
    return clips, skipped


def _check_array_header(file: BinaryIO, name: str, offset: int) -> None:
    """Reject an array of Python objects, which holds a pickle. Only the header is read, whatever size it claims."""
    from numpy.lib import format as npy

    file.seek(offset)
    try:
        reads = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        _, _, dtype = reads[npy.read_magic(file)](file)
    except Exception as error:  # NumPy evaluates text of unknown origin
        raise _RejectedTar(f"{name} is not an array that NumPy writes: {type(error).__name__} {error}") from None
    if dtype.hasobject:
        raise _RejectedTar(f"{name} holds Python objects, that is a pickle, which runs code when it is read")
