"""Shard cache: local copies of a remote data set's shards.

Each shard is fetched once for all processes of a machine and verified against the manifest. Safe under concurrent
processes and crashes: a copy gets its name once it is complete, and all locks are the kernel's (flock). An open shard
stays readable after its eviction (cache_eviction.py). Limits: the SHA-256 is checked when a shard is fetched, later
only the size (a machine that goes down loses the end of a file, not its middle); the folder exceeds `max_bytes` only
while the shards being fetched at one moment are larger than that; on a network file system flock must work.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.atomic_write import NO_LOCKS, temporary_path
from configs.errors import CommandFailed, UsageError
from pipelines.storage import RemoteFolder
from pipelines.stream import remote_retry
from pipelines.stream.cache_eviction import download_lock, evict, locked

# A slower connection counts as broken; the file system gives up a silent one much sooner.
_MIN_BYTES_PER_S = 50_000
_GRACE_S = 60


class _NoSpace(Exception):
    """Pinned shards fill the cache."""


class ShardCache:
    """The local copies of a remote data set's shards. Pickling it needs neither the network nor the disk.

    Args:
        remote: the data set.
        entries: of its shards in the manifest, with name, size_bytes and sha256.
        folder: where copies are stored; several data sets and processes may share it.
        fingerprint: of the data set.
        max_bytes: maximum size of all copies in `folder`.

    Attributes:
        folder, max_bytes: as above.
        data_set_folder: subfolder for this data set's copies and its member index.

    Raises:
        UsageError: the cache cannot hold two shards, or the folder cannot be created.
    """

    def __init__(
        self, remote: RemoteFolder, entries: Sequence[dict[str, Any]], folder: Path, fingerprint: str, max_bytes: int
    ) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._remote, self._entries = remote, {entry["name"]: entry for entry in entries}
        self._open_retries, self._prefetch_retries = remote_retry.LONG_RETRY, remote_retry.SHORT_RETRY
        self.data_set_folder = folder / fingerprint[:16]
        largest = max((entry["size_bytes"] for entry in entries), default=0)
        if max_bytes < 2 * largest:
            raise UsageError(
                f"stream.cache_gb={max_bytes / 1e9:g} cannot hold two shards of {remote}, "
                f"the largest has {largest / 1e9:.3g} GB"
            )
        try:
            self.data_set_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"stream.cache_dir={folder}, for copies of {remote}, cannot be created: {error.strerror}; "
                "choose another folder"
            ) from None

    def path(self, name: str) -> Path:
        """The path of a shard's copy, whether it exists or not."""
        return self.data_set_folder / f"{name}.tar"

    def size_bytes(self, name: str) -> int:
        """A shard's size, cached or not."""
        return self._entries[name]["size_bytes"]

    def open(self, name: str) -> int:
        """A file descriptor of a shard's tar, which is fetched first if it is not cached.

        Raises:
            CommandFailed: it cannot be fetched, differs from the manifest, or does not fit on the disk.
        """
        started_s = time.monotonic()
        with self._translate_disk_errors():
            while (descriptor := self._open_copy(name)) is None:
                descriptor = self._fetch(name, started_s)
            return descriptor

    def prefetch(self, name: str) -> bool:
        """Fetch a shard unless it is cached or being fetched; False where that would evict pinned shards.

        Raises:
            CommandFailed: as `open`, after fewer tries.
        """
        with self._translate_disk_errors():
            descriptor = self._open_copy(name)
            if descriptor is None:
                try:
                    descriptor = self._fetch(name, None)
                except _NoSpace:
                    return False
        if descriptor is not None:
            os.close(descriptor)
        return True

    @contextlib.contextmanager
    def index_lock(self) -> Iterator[Path]:
        """Lock `data_set_folder`, so that one process builds the member index that all use."""
        with self._translate_disk_errors(), locked(self.data_set_folder / ".lock"):
            for leftover in self.data_set_folder.glob(".new-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield self.data_set_folder

    def _open_copy(self, name: str) -> int | None:
        try:
            descriptor = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != self.size_bytes(name):
            os.close(descriptor)
            return None
        _touch(descriptor)
        return descriptor

    def _fetch(self, name: str, waiting_since_s: float | None) -> int | None:
        """Fetch a shard; a prefetch if `waiting_since_s` is None. None where another process does or did so."""
        path, is_prefetch = self.path(name), waiting_since_s is None
        self.data_set_folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path, writer=str(self.size_bytes(name)))
        with download_lock(temporary, wait=not is_prefetch) as acquired:
            if not acquired:
                return None
            if (descriptor := self._open_copy(name)) is not None:
                return descriptor
            if not evict(self.folder, self.max_bytes, keep_pinned=is_prefetch) and is_prefetch:
                raise _NoSpace
            retries = self._prefetch_retries if is_prefetch else self._open_retries
            remote_retry.retried(lambda: self._download(name, temporary), retries, waiting_since_s)
            descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            _touch(descriptor)
            temporary.replace(path)
            return descriptor

    def _download(self, name: str, path: Path) -> None:
        """Download a shard once and verify it against the manifest."""
        stated, address = self._entries[name], f"{self._remote}/{name}.tar"
        verify = f"python -m pipelines.verify {self._remote} lists the damage"
        try:
            self._remote.download(f"{name}.tar", path, _GRACE_S + stated["size_bytes"] / _MIN_BYTES_PER_S)
        except FileNotFoundError:
            raise CommandFailed(f"{address} is missing, but manifest.json lists it; {verify}") from None
        with path.open("rb") as file:
            size_bytes, sha256 = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
        if size_bytes != stated["size_bytes"]:
            raise CommandFailed(
                f"{address}: received {size_bytes} bytes, manifest.json states {stated['size_bytes']}; {verify}"
            )
        if sha256 != stated["sha256"]:
            raise CommandFailed(f"{address}: its SHA-256 differs from manifest.json; {verify}")

    @contextlib.contextmanager
    def _translate_disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CommandFailed(
                f"stream.cache_dir={self.folder}, for copies of {self._remote}: {error.strerror}; "
                + (
                    "its file system has no locks: choose a folder on a local disk"
                    if error.errno in NO_LOCKS
                    else "free disk space, reduce stream.cache_gb or choose another folder"
                )
                + ", then run the same command again"
            ) from None


def _touch(descriptor: int) -> None:
    """Set a copy's time of last use to the nanosecond; the kernel's timestamps advance in steps of milliseconds."""
    with contextlib.suppress(PermissionError):  # another user's copy
        os.utime(descriptor, ns=(time.time_ns(),) * 2)
