"""The folder of a data set on a remote file system, by fsspec.

Limits: a remote folder is not locked against a second writer, which would write the same bytes. The parts of a killed
upload stay in an object store, invisible and billed, until a lifecycle rule of the bucket removes them (S3:
AbortIncompleteMultipartUpload). Every file is written to the folder for temporary files (TMPDIR) before it is uploaded.
"""

import contextlib
import errno
import fnmatch
import functools
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from configs.atomic_write import folder_lock, is_temporary
from configs.errors import CommandFailed, UsageError
from pipelines.storage.local_folder import writer_name

HTTP_TIMEOUT_S = 30.0  # for the connection, and between two pieces of data; a whole shard may take longer
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "memory"}
_SCRATCH = "build-scratch-"  # prefix in the folder for temporary files, which other programs use too
_READ_BYTES = 1 << 20
_SMALL_FILE_S = 300.0


class RemoteFolder:
    """Reads and writes the files below an fsspec address; methods without a description are those of LocalFolder."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        _ = self._fs  # raises UsageError for an address without a file system

    def __str__(self) -> str:
        return self._address

    def __getstate__(self) -> dict[str, Any]:
        return {"_address": self._address}

    @functools.cached_property
    def _fs(self) -> tuple[Any, str]:
        """The file system and the path of the folder in it; connects once in each process."""
        import fsspec

        try:
            options = _http_options() if self._address.startswith(("http://", "https://")) else {}
            return fsspec.url_to_fs(self._address, use_listings_cache=False, **options)
        except (ValueError, ImportError) as error:
            raise UsageError(f"{self._address}: {error}") from None

    @contextlib.contextmanager
    def _translate_errors(self, name: str = "") -> Iterator[tuple[Any, str]]:
        """Yield the file system and the path of a file; turn the errors of all file systems into CommandFailed."""
        try:
            fs, folder = self._fs
            yield fs, f"{folder}/{name}"
        except (FileNotFoundError, UsageError, CommandFailed, KeyboardInterrupt):
            raise
        except Exception as error:  # botocore's, aiohttp's and paramiko's errors have no common base
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # the disk of this machine
            message = " ".join([type(error).__name__, *str(error).split()])
            raise CommandFailed(f"{self._address}/{name}: {message}; run the same command again") from None

    def create(self) -> None:
        """Create the folder if it does not exist, and check that it is writable; buckets are not created.

        Raises:
            UsageError: the bucket does not exist.
            CommandFailed: the store does not answer or denies writing.
        """
        try:
            with self._translate_errors() as (fs, folder):
                if not _is_object_store(fs):
                    fs.makedirs(folder.rstrip("/"), exist_ok=True)
                probe = f"{folder}.{writer_name()}.tmp"
                fs.pipe_file(probe, b"")
                fs.rm_file(probe)
        except FileNotFoundError as error:
            raise UsageError(
                f"out={self._address} is not writable; does the bucket exist? ({' '.join(str(error).split())})"
            ) from None

    def folder_lock(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing: remote folders have no locks."""
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

    def open(self, name: str) -> io.BufferedReader:
        with self._translate_errors(name) as (fs, path):
            file = _RemoteFile(fs.open(path, "rb"), lambda: self._translate_errors(name))
            return io.BufferedReader(file, _READ_BYTES)

    def read(self, name: str) -> bytes:
        """The content of a small file, in one request; raises FileNotFoundError if it does not exist."""
        with self._translate_errors(name) as (fs, path):
            return fs.cat_file(path, **_timeout(fs, _SMALL_FILE_S))

    def download(self, name: str, path: Path, limit_s: float) -> None:
        """Copy a file to a local path, as a stream.

        Raises:
            FileNotFoundError: the file does not exist.
            CommandFailed: the transfer fails or takes more than `limit_s` seconds (only file systems of fsspec that are
                asynchronous honor the limit).
            OSError: the local disk is full.
        """
        with self._translate_errors(name) as (fs, remote):
            # s3fs otherwise holds ten parts of 50 MB in memory
            one_stream = {"max_concurrency": 1} if "s3" in fs.protocol else {}
            fs.get_file(remote, str(path), **one_stream, **_timeout(fs, limit_s))

    @contextlib.contextmanager
    def atomic_open(self, name: str) -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile() as file:  # without a name, so that a killed writer leaves nothing
            yield file
            file.flush()
            local = f"/proc/self/fd/{file.fileno()}"
            try:
                with self._translate_errors(name) as (fs, path):
                    if _is_object_store(fs):
                        fs.put_file(local, path)
                    else:
                        temporary = f"{path.rpartition('/')[0]}/.{name}.{writer_name()}.tmp"
                        fs.put_file(local, temporary)
                        fs.mv(temporary, path)
            except FileNotFoundError as error:
                raise CommandFailed(f"{self._address} no longer exists ({' '.join(str(error).split())})") from None

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._translate_errors(name) as (fs, path):
            fs.rm_file(path)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[str]:
        """A temporary folder on this machine for the duration of a `with` block; its lock tells it from a leftover."""
        while True:
            with contextlib.ExitStack() as stack:
                path = stack.enter_context(tempfile.TemporaryDirectory(prefix=_SCRATCH))
                try:
                    stack.enter_context(folder_lock(Path(path)))
                except (UsageError, FileNotFoundError):
                    continue  # `remove_leftovers` of another process came before the lock
                if Path(path).is_dir():
                    yield path
                    return

    def remove_leftovers(self, pattern: str = "*") -> None:
        """As `LocalFolder.remove_leftovers`; scratch folders are those on this machine."""
        for name in fnmatch.filter(self._all_sizes(), f".{pattern}"):
            if is_temporary(name):
                self.remove(name)
        for path in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
            with contextlib.suppress(UsageError, OSError), folder_lock(path, required=True):
                shutil.rmtree(path, ignore_errors=True)

    def _all_sizes(self) -> dict[str, int]:
        with contextlib.suppress(FileNotFoundError), self._translate_errors() as (fs, folder):
            entries = fs.ls(folder.rstrip("/"), detail=True)
            return {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries if entry["type"] == "file"}
        return {}


class _RemoteFile(io.RawIOBase):
    """A file of fsspec whose read errors pass through `translate_errors`."""

    def __init__(self, file: Any, translate_errors: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        self._file, self._translate_errors = file, translate_errors

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
    """Timeouts of fsspec's HTTP file system: on silence, not on the whole transfer (aiohttp's default is 5 minutes)."""
    import aiohttp

    return {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=HTTP_TIMEOUT_S, sock_read=HTTP_TIMEOUT_S)}


def _timeout(fs: Any, seconds: float) -> dict[str, float]:
    return {"timeout": seconds} if fs.async_impl else {}


def _is_object_store(fs: Any) -> bool:
    return bool(_OBJECT_STORES.intersection([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol))
