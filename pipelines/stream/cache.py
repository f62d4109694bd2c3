"""Shards of a remote data set on a local disk: fetched once for all processes of a machine, checked against the manifest, the oldest making room.

A shard is fetched under a lock of its own that the kernel lets go with its holder, so a killed process leaves nothing behind but a half-written file, which
is removed when room is made. A shard that is open stays readable when it is removed. Limits: the disk is given to `max_bytes` but for what others fetch
at the same moment; a cache on a network file system needs one on which flock works.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from configs.command import RunFailed, UsageError
from pipelines.storage import RemoteFolder
from pipelines.whole_file import temporary_path

TRIES = 6
_FIRST_PAUSE_S = 0.5  # doubled after each try: 16 s in all
_READ_BYTES = 1 << 20


class StatedShard(NamedTuple):
    """What the manifest says of a shard."""

    size_bytes: int
    sha256: str


class ShardCache:
    """The local copies of a remote data set's shards.

    Args:
        remote: the data set.
        shards: name of each tar, without `.tar` -> what the manifest says of it.
        folder: where copies are kept; several data sets and processes may share it.
        fingerprint: of the data set.
        max_bytes: most that may lie in `folder`.

    Raises:
        UsageError: the cache cannot hold two shards.
    """

    def __init__(self, remote: RemoteFolder, shards: dict[str, StatedShard], folder: Path, fingerprint: str, max_bytes: int) -> None:
        self.remote, self._shards, self._folder, self._max_bytes = remote, shards, folder, max_bytes
        self._mine = folder / fingerprint[:16]
        largest = max((shard.size_bytes for shard in shards.values()), default=0)
        if max_bytes < 2 * largest:
            raise UsageError(f"stream.cache_gb={max_bytes / 1e9:g} cannot hold two shards of {remote}, the largest has {largest / 1e9:.3g} GB")
        self._mine.mkdir(parents=True, exist_ok=True)

    def open(self, name: str) -> int:
        """A descriptor of a shard's tar, fetched first where it is not here.

        Raises:
            RunFailed: it cannot be fetched, or what comes is not what the manifest says.
        """
        path = self._mine / f"{name}.tar"
        descriptor = self._open_here(path, name)
        if descriptor is None:
            with _locked(path.with_suffix(".lock")):
                descriptor = self._open_here(path, name)
                if descriptor is None:
                    self._fetch(name, path)
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return descriptor

    def fetch(self, name: str) -> None:
        """See to it that a shard is here, for later."""
        os.close(self.open(name))

    def _open_here(self, path: Path, name: str) -> int | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != self._shards[name].size_bytes:  # the disk lost it when the machine went down
            os.close(descriptor)
            return None
        os.utime(descriptor)
        return descriptor

    def _fetch(self, name: str, path: Path) -> None:
        stated = self._shards[name]
        temporary = temporary_path(path)
        self._make_room(stated.size_bytes)
        for number in range(TRIES):
            if number:
                time.sleep(_FIRST_PAUSE_S * 2 ** (number - 1))
            try:
                _copy(self.remote, f"{name}.tar", temporary, stated)
                temporary.replace(path)
                return
            except (_Different, RunFailed, FileNotFoundError) as error:
                problem = error
            finally:
                temporary.unlink(missing_ok=True)
        raise RunFailed(f"{self.remote}/{name}.tar could not be fetched in {TRIES} tries, the last ended with: {' '.join(str(problem).split())}")

    def _make_room(self, needed_bytes: int) -> None:
        """Remove the shards used longest ago, of any data set, and what killed processes left."""
        with _locked(self._folder / ".room.lock"):
            found = []
            for path in self._folder.glob("*/*.tar"):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    found.append((status.st_mtime, status.st_size, path))
            for path in self._folder.glob("*/.*.tmp"):
                _remove_unless_locked(path, path.with_name(path.name[1:].removesuffix(".tmp")).with_suffix(".lock"))
            held = sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if held + needed_bytes <= self._max_bytes:
                    return
                if _remove_unless_locked(path, path.with_suffix(".lock")):
                    held -= size


class _Different(Exception):
    """What came is not what the manifest says."""


def _copy(remote: RemoteFolder, name: str, path: Path, stated: StatedShard) -> None:
    digest, size_bytes = hashlib.sha256(), 0
    with remote.open(name) as source, path.open("wb") as target:
        while data := source.read(_READ_BYTES):
            digest.update(data)
            size_bytes += len(data)
            target.write(data)
    if (size_bytes, digest.hexdigest()) != stated:
        kind = (
            f"{size_bytes} bytes came, manifest.json says {stated.size_bytes}" if size_bytes != stated.size_bytes else "another SHA-256 than in manifest.json"
        )
        raise _Different(kind)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_unless_locked(path: Path, lock: Path) -> bool:
    """Whether a file could be removed, its lock being free."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
