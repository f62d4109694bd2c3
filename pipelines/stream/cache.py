"""Shards of a remote data set on a local disk: fetched once for all processes of a machine, checked against the manifest, in a bounded folder (cache_eviction.py).

Safe under concurrent processes and crashes: a copy appears under its name when it is whole, and all locks are the kernel's. A shard that is open stays
readable when it is removed. Limits: the SHA-256 is checked when a shard is fetched, afterwards only the size (a machine that goes down loses the end of a
file, not its middle); the folder holds more than `max_bytes` only while the shards being fetched at one moment have more; on a network file system flock
has to work.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from configs.errors import CommandFailed, UsageError
from pipelines.storage import RemoteFolder
from pipelines.stream import retry
from pipelines.stream.cache_eviction import download_lock, evict, locked, temporary_copy

# A connection this slow is as good as none; a silent one is given up much sooner, by the file system.
_MIN_BYTES_PER_S = 50_000
_GRACE_S = 60


class _NoRoom(Exception):
    """What is needed soon fills the folder."""


class ShardInfo(NamedTuple):
    """What the manifest says of a shard."""

    size_bytes: int
    sha256: str


class ShardCache:
    """The local copies of a remote data set's shards; pickles as it is, without a look at the network or the disk.

    Args:
        remote: the data set.
        shards: name of each tar, without `.tar` -> what the manifest says of it.
        folder: where copies are kept; several data sets and processes may share it.
        fingerprint: of the data set.
        max_bytes: most that may lie in `folder`.

    Attributes:
        folder, max_bytes: as above.
        tables: a folder for what else is kept of this data set.

    Raises:
        UsageError: the cache cannot hold two shards, or the folder cannot be made.
    """

    def __init__(
        self, remote: RemoteFolder, shards: dict[str, ShardInfo], folder: Path, fingerprint: str, max_bytes: int
    ) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._remote, self._shards, self._patient, self._brisk = remote, shards, retry.LONG_RETRY, retry.SHORT_RETRY
        self.tables = folder / fingerprint[:16]
        largest = max((shard.size_bytes for shard in shards.values()), default=0)
        if max_bytes < 2 * largest:
            raise UsageError(
                f"stream.cache_gb={max_bytes / 1e9:g} cannot hold two shards of {remote}, the largest has {largest / 1e9:.3g} GB"
            )
        try:
            self.tables.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"stream.cache_dir={folder}, for copies of {remote}, cannot be made: {error.strerror}; give another folder"
            ) from None

    def path(self, name: str) -> Path:
        """Where a shard's copy lies when it is here."""
        return self.tables / f"{name}.tar"

    def size_bytes(self, name: str) -> int:
        """A shard's size, here or not."""
        return self._shards[name].size_bytes

    def open(self, name: str) -> int:
        """A descriptor of a shard's tar, fetched first where it is not here.

        Raises:
            CommandFailed: it cannot be fetched, what comes is not what the manifest says, or there is no room for it.
        """
        began_s = time.monotonic()
        with self._disk_errors_told():
            while (descriptor := self._open_here(name)) is None:
                descriptor = self._fetch(name, began_s)
            return descriptor

    def fetch_ahead(self, name: str) -> bool:
        """See to it that a shard is here, or that another process fetches it; False where that would take room from what is needed soon.

        Raises:
            CommandFailed: as `open`, after fewer tries.
        """
        with self._disk_errors_told():
            descriptor = self._open_here(name)
            if descriptor is None:
                try:
                    descriptor = self._fetch(name, None)
                except _NoRoom:
                    return False
        if descriptor is not None:
            os.close(descriptor)
        return True

    @contextlib.contextmanager
    def index_lock(self) -> Iterator[Path]:
        """Keep other processes out of `tables` meanwhile, so that one makes what all use."""
        with self._disk_errors_told(), locked(self.tables / ".lock"):
            for left in self.tables.glob(".new-*"):
                shutil.rmtree(left, ignore_errors=True)
            yield self.tables

    def _open_here(self, name: str) -> int | None:
        try:
            descriptor = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != self._shards[name].size_bytes:
            os.close(descriptor)
            return None
        _touch(descriptor)
        return descriptor

    def _fetch(self, name: str, waiting_since_s: float | None) -> int | None:
        """Fetch a shard, ahead of need if `waiting_since_s` is None; None where another has just fetched it or, ahead of need, is fetching it."""
        path, ahead = self.path(name), waiting_since_s is None
        self.tables.mkdir(parents=True, exist_ok=True)
        temporary = temporary_copy(path, self.size_bytes(name))
        with download_lock(temporary, wait=not ahead) as is_ours:
            if not is_ours:
                return None
            if (descriptor := self._open_here(name)) is not None:
                return descriptor
            if not evict(self.folder, self.max_bytes, spare_needed=ahead) and ahead:
                raise _NoRoom
            retry.retried(lambda: self._copy(name, temporary), self._brisk if ahead else self._patient, waiting_since_s)
            descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            _touch(descriptor)
            temporary.replace(path)
            return descriptor

    def _copy(self, name: str, path: Path) -> None:
        """Fetch a shard once and compare it with the manifest."""
        stated, address = self._shards[name], f"{self._remote}/{name}.tar"
        try:
            self._remote.download(f"{name}.tar", path, _GRACE_S + stated.size_bytes / _MIN_BYTES_PER_S)
        except FileNotFoundError:
            raise CommandFailed(
                f"{address} is missing, manifest.json lists it; python -m pipelines.verify {self._remote} tells what else is"
            ) from None
        with path.open("rb") as file:
            came = ShardInfo(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())
        if came != stated:
            what = (
                f"{came.size_bytes} bytes came, {stated.size_bytes}"
                if came.size_bytes != stated.size_bytes
                else "its bytes have another SHA-256 than"
            )
            raise CommandFailed(
                f"{address}: {what} stated in manifest.json; python -m pipelines.verify {self._remote} tells whether it is damaged there"
            )

    @contextlib.contextmanager
    def _disk_errors_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "make room, lower stream.cache_gb or give another folder"
            raise CommandFailed(
                f"stream.cache_dir={self.folder}, for copies of {self._remote}: {error.strerror}; {hint}, then run the same command again"
            ) from None


def _touch(descriptor: int) -> None:
    """Date a copy, exactly: of itself the kernel counts in steps of some milliseconds."""
    with contextlib.suppress(PermissionError):  # another user's copy
        os.utime(descriptor, ns=(time.time_ns(),) * 2)
