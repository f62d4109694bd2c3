"""The folder a data set lies in: a local one, or any address fsspec reaches (s3://bucket/train). Files appear in it whole or not at all.

Locally by temporary name, fsync and rename. In an object store an upload appears when it is complete; elsewhere (sftp, hdfs, smb) it is renamed too.
Limits: a remote folder is not locked against a second writer, who would write the same bytes. The parts of an upload that was killed stay in an object
store, unseen and paid for, until a life-cycle rule of the bucket (S3: AbortIncompleteMultipartUpload) removes them. Every file to be uploaded lies in the
folder for temporary files (TMPDIR) first.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import io
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from configs.atomic_write import atomic_open, folder_lock, is_temporary
from configs.errors import CommandFailed, UsageError

_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "memory"}

_SCRATCH = ".scratch-"
_SCRATCH_ELSEWHERE = "build-scratch-"  # among others' temporary files
_READ_BYTES = 1 << 20
HTTP_SILENCE_S = 30.0
_SMALL_FILE_S = 300.0


def open_folder(address: str) -> LocalFolder | RemoteFolder:
    """The folder at an address; it need not exist.

    Raises:
        UsageError: nothing can reach such an address.
    """
    protocol, separator, path = address.partition("://")
    if separator and protocol not in ("file", "local"):
        return RemoteFolder(address)
    return LocalFolder(path if separator else address)


class LocalFolder:
    """Files of a folder on this machine's file systems."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def __reduce__(self) -> tuple[type[LocalFolder], tuple[Path]]:
        return LocalFolder, (self.path.absolute(),)  # another process may be in another folder

    def create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def folder_lock(self) -> contextlib.AbstractContextManager[None]:
        return folder_lock(self.path)

    def sizes(self, pattern: str = "*") -> dict[str, int]:
        """Size in bytes of each file whose name fits; empty for a folder that is not there."""
        try:
            with os.scandir(self.path) as entries:
                return {
                    e.name: e.stat().st_size
                    for e in entries
                    if fnmatch.fnmatch(e.name, pattern) and not is_temporary(e.name) and e.is_file()
                }
        except FileNotFoundError:
            return {}

    def size_bytes(self, name: str) -> int:
        """Size of a file; FileNotFoundError where there is none."""
        return (self.path / name).stat().st_size

    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in; FileNotFoundError where there is none."""
        return (self.path / name).open("rb")

    def atomic_open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A file to write that appears under its name when it is complete."""
        return atomic_open(self.path / name, _writer())

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def scratch(self) -> tempfile.TemporaryDirectory[str]:
        """A folder of one's own for the time of a `with`."""
        return tempfile.TemporaryDirectory(dir=self.path, prefix=_SCRATCH)

    def remove_leftovers(self, pattern: str = "*") -> None:
        """Remove what killed writers left: half-written files whose names fit, and scratch folders."""
        for path in self.path.glob(f".{pattern}"):
            if is_temporary(path.name):
                path.unlink(missing_ok=True)
            elif path.name.startswith(_SCRATCH):
                shutil.rmtree(path, ignore_errors=True)


class RemoteFolder:
    """Files below an address of fsspec."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        self._connected: tuple[Any, str] | None = None
        self._fs()

    def __str__(self) -> str:
        return self._address

    def __getstate__(self) -> dict[str, Any]:
        return {"_address": self._address, "_connected": None}

    def _fs(self) -> tuple[Any, str]:
        """The file system and the folder's path in it; connected once in each process."""
        import fsspec

        if self._connected is None:
            try:
                options = _http_options() if self._address.startswith(("http://", "https://")) else {}
                self._connected = fsspec.url_to_fs(self._address, use_listings_cache=False, **options)
            except (ValueError, ImportError) as error:
                raise UsageError(f"{self._address}: {error}") from None
        return self._connected

    @contextlib.contextmanager
    def _translate_errors(self, name: str = "") -> Iterator[tuple[Any, str]]:
        """Turn what the many file systems raise into one line."""
        try:
            fs, folder = self._fs()
            yield fs, f"{folder}/{name}"
        except (FileNotFoundError, UsageError, CommandFailed, KeyboardInterrupt):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # this machine's disk
            # botocore's, aiohttp's and paramiko's errors have no common base
            said = " ".join([type(error).__name__, *str(error).split()])
            raise CommandFailed(f"{self._address}/{name}: {said}; run the same command again") from None

    def create(self) -> None:
        """See to it that files can be written; a bucket has to be there.

        Raises:
            UsageError: there is no such bucket.
            CommandFailed: it does not answer, or may not be written.
        """
        try:
            with self._translate_errors() as (fs, folder):
                if not _is_object_store(fs):
                    fs.makedirs(folder.rstrip("/"), exist_ok=True)
                probe = f"{folder}.{_writer()}.tmp"
                fs.pipe_file(probe, b"")
                fs.rm_file(probe)
        except FileNotFoundError as error:
            raise UsageError(
                f"out={self._address} cannot be written, is there such a bucket? ({' '.join(str(error).split())})"
            ) from None

    def folder_lock(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def sizes(self, pattern: str = "*") -> dict[str, int]:
        return {
            name: size
            for name, size in self._all_sizes().items()
            if fnmatch.fnmatch(name, pattern) and not is_temporary(name)
        }

    def size_bytes(self, name: str) -> int:
        with self._translate_errors(name) as (fs, path):
            return fs.size(path)

    def open(self, name: str) -> BinaryIO:
        with self._translate_errors(name) as (fs, path):
            return io.BufferedReader(
                _RemoteFile(fs.open(path, "rb"), lambda: self._translate_errors(name)), _READ_BYTES
            )

    def read(self, name: str) -> bytes:
        """A whole small file in one request; FileNotFoundError where there is none."""
        with self._translate_errors(name) as (fs, path):
            return fs.cat_file(path, **_limit(fs, _SMALL_FILE_S))

    def download(self, name: str, path: Path, limit_s: float) -> None:
        """Copy a whole file to a path of this machine, as a stream; FileNotFoundError where there is none.

        Raises:
            CommandFailed: the store does not give it, or not in `limit_s` seconds (file systems of fsspec that are not asynchronous have limits of their own).
            OSError: there is no room for it here.
        """
        with self._translate_errors(name) as (fs, remote):
            one_stream = (
                {"max_concurrency": 1} if "s3" in fs.protocol else {}
            )  # s3fs otherwise holds ten parts of 50 MB in memory
            fs.get_file(remote, str(path), **one_stream, **_limit(fs, limit_s))

    @contextlib.contextmanager
    def atomic_open(self, name: str) -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile() as file:  # it has no name, so that a killed writer leaves nothing
            yield file
            file.flush()
            ours = f"/proc/self/fd/{file.fileno()}"
            try:
                with self._translate_errors(name) as (fs, path):
                    if _is_object_store(fs):
                        fs.put_file(ours, path)
                    else:
                        temporary = f"{path.rpartition('/')[0]}/.{name}.{_writer()}.tmp"
                        fs.put_file(ours, temporary)
                        fs.mv(temporary, path)
            except FileNotFoundError as error:
                raise CommandFailed(f"{self._address} is gone ({' '.join(str(error).split())})") from None

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._translate_errors(name) as (fs, path):
            fs.rm_file(path)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[str]:
        """A folder of one's own on this machine for the time of a `with`, locked so that others can tell it from one of a killed process."""
        with tempfile.TemporaryDirectory(prefix=_SCRATCH_ELSEWHERE) as path, folder_lock(Path(path)):
            yield path

    def remove_leftovers(self, pattern: str = "*") -> None:
        """Remove what killed writers left: half-written files whose names fit, and scratch folders on this machine."""
        for name in fnmatch.filter(self._all_sizes(), f".{pattern}"):
            if is_temporary(name):
                self.remove(name)
        for path in Path(tempfile.gettempdir()).glob(f"{_SCRATCH_ELSEWHERE}*"):
            with contextlib.suppress(UsageError, OSError), folder_lock(path):
                shutil.rmtree(path, ignore_errors=True)

    def _all_sizes(self) -> dict[str, int]:
        try:
            with self._translate_errors() as (fs, folder):
                entries = fs.ls(folder.rstrip("/"), detail=True)
        except FileNotFoundError:
            return {}
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries if entry["type"] == "file"}


class _RemoteFile(io.RawIOBase):
    """A file of fsspec whose failures while it is read are told in one line too."""

    def __init__(self, file: Any, told: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        self._file, self._translate_errors = file, told

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._translate_errors():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _http_options() -> dict[str, Any]:
    """For fsspec's http: a whole shard may take more than aiohttp's 5 minutes, silence is not waited for."""
    import aiohttp

    return {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=HTTP_SILENCE_S, sock_read=HTTP_SILENCE_S)}


def _limit(fs: Any, seconds: float) -> dict[str, float]:
    return {"timeout": seconds} if fs.async_impl else {}


def _is_object_store(fs: Any) -> bool:
    return bool(_OBJECT_STORES.intersection([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol))


def _writer() -> str:
    """This process among all that may write the folder."""
    return f"{socket.gethostname()}-{os.getpid()}"


Folder = LocalFolder | RemoteFolder


def read(folder: Folder, name: str) -> bytes:
    """A whole file; FileNotFoundError where there is none."""
    with folder.open(name) as file:
        return file.read()
