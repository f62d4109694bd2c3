"""Unpacks zip and tar archives that may be hostile: nothing is written outside the target folder.

Members appear under their names only when they are complete; those of a zip archive that are there already, by their
checksum, are kept after an interruption. Refused: absolute paths, `..`, links out of the target, devices, links in
zip archives, and archives whose contents are much larger than themselves or than the disk.
"""

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from configs.atomic_write import atomic_open
from configs.errors import CommandFailed

_MAX_RATIO = 200  # media and tables are compressed to a tenth at most; deflate itself reaches 1,032
_SMALL_BYTES = 1 << 30  # what an archive may always unpack to
_CHUNK_BYTES = 1 << 20
# What the standard library raises for damaged, encrypted and unsupported archives.
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError,
    RuntimeError, ValueError,
)  # fmt: skip


def unpack(archive: Path, on_bytes: Callable[[int], None] = lambda _: None) -> int:
    """Unpack an archive into its folder.

    Args:
        archive: a zip or tar file; tar may be compressed by gzip, bzip2 or xz.
        on_bytes: called with the size of each member.

    Returns:
        The total size of its files in bytes.

    Raises:
        CommandFailed: not an archive, a damaged one, one with a member that is refused, or the disk is too small.
    """
    try:
        if zipfile.is_zipfile(archive):
            return _unpack_zip(archive, on_bytes)
        if tarfile.is_tarfile(archive):
            return _unpack_tar(archive, on_bytes)
    except CommandFailed:
        raise
    except _DAMAGE as error:
        raise CommandFailed(
            f"{archive} cannot be unpacked ({' '.join(str(error).split())}); remove it and run the same command again"
        ) from None
    raise CommandFailed(f"{archive} is neither a zip nor a tar archive; check the url of this file")


def _unpack_zip(archive: Path, on_bytes: Callable[[int], None]) -> int:
    target = archive.parent
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        total = sum(member.file_size for member in members)
        _check_size(archive, total)
        paths = [_zip_path(archive, target, member) for member in members]  # refuse before anything is written
        for member, path in zip(members, paths, strict=True):
            if member.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            if not _is_there(path, member):
                with opened.open(member) as content:
                    _write(archive, path, content, member.file_size)
            on_bytes(member.file_size)
    return total


def _zip_path(archive: Path, target: Path, member: zipfile.ZipInfo) -> Path:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise CommandFailed(f"{archive}: {member.filename!r} is a link or a device; the archive is not unpacked")
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0] or "\0" in name:
        raise _outside(archive, member.filename)
    return _inside(archive, target, member.filename)


def _unpack_tar(archive: Path, on_bytes: Callable[[int], None]) -> int:
    target, total = archive.parent, 0
    with tarfile.open(archive) as opened:
        for member in opened:
            try:
                checked = tarfile.data_filter(member, str(target))
            except tarfile.FilterError as error:
                raise CommandFailed(f"{archive}: {error}; unpacking stops here") from None
            total += checked.size
            _check_size(archive, total, checked.size)
            path = _inside(archive, target, checked.name)
            if checked.isreg() and (content := opened.extractfile(member)):
                with content:
                    _write(archive, path, content, checked.size)
            elif checked.isdir():
                path.mkdir(parents=True, exist_ok=True)
            elif not path.exists():
                opened.extract(member, target, filter="data")
            on_bytes(checked.size)
        while opened.fileobj and opened.fileobj.read(_CHUNK_BYTES):
            pass  # the checksum of a compressed archive is at its end
    return total


def _is_there(path: Path, member: zipfile.ZipInfo) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != member.file_size:
        return False
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return crc == member.CRC


def _write(archive: Path, path: Path, content: IO[bytes], size_bytes: int) -> None:
    """Write a member."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path) as file:
        left = size_bytes
        while chunk := content.read(min(_CHUNK_BYTES, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise CommandFailed(f"{archive}: {path.name} is larger than the archive states; unpacking stops here")
            file.write(chunk)
        if left:
            raise CommandFailed(f"{archive} is damaged: {path.name} is incomplete; remove it and run the command again")


def _inside(archive: Path, target: Path, name: str) -> Path:
    """The path of a member, also if a link lies in its way."""
    path = target / name
    if not path.resolve().is_relative_to(target.resolve()):
        raise _outside(archive, name)
    return path


def _outside(archive: Path, name: str) -> CommandFailed:
    return CommandFailed(f"{archive}: {name!r} lies outside of {archive.parent}; the archive is not unpacked")


def _check_size(archive: Path, total: int, next_bytes: int | None = None) -> None:
    """Refuse an archive that unpacks to too much.

    Args:
        total: size of its files, of those so far in a tar.
        next_bytes: what is written next; None: everything.
    """
    packed = archive.stat().st_size
    if total > _SMALL_BYTES and total > _MAX_RATIO * packed:
        raise CommandFailed(
            f"{archive} has {packed / 1e6:.0f} MB and unpacks to {total / 1e9:.0f} GB or more: this is not a data set"
        )
    needed, free = total if next_bytes is None else next_bytes, shutil.disk_usage(archive.parent).free
    if needed > free:
        raise CommandFailed(
            f"{archive} unpacks to {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; free some space, then run "
            "the same command again"
        )
