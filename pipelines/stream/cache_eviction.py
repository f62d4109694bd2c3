"""LRU eviction of a shard cache shared by several processes, runs and data sets, with shards pinned by running loaders.

Copies are FOLDER/DATA_SET/NAME.tar; while one is fetched, FOLDER/DATA_SET/.NAME.tar.BYTES.tmp, locked by the process
that fetches it, which reserves space for all of it. All locks are the kernel's (flock), released when their holder
ends: an unlocked temporary file was left by a killed process and is removed.
"""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

_LOCK = ".lock"
_PINNED = ".needed-"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is created empty and never removed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def download_lock(temporary: Path, wait: bool) -> Iterator[bool]:
    """Lock the download of a copy: yields whether the lock was acquired. A file left at the path is removed afterwards.

    Args:
        temporary: path of the copy while it is fetched; created and locked.
        wait: wait until another process that fetches it has finished; otherwise yield False.
    """
    while True:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            if _is_at(descriptor, temporary):  # otherwise the previous holder renamed or removed it: try again
                try:
                    yield True
                finally:
                    if _is_at(descriptor, temporary):
                        temporary.unlink()
                return
        finally:
            os.close(descriptor)


class PinnedShards:
    """The shards that a run will read soon, which no prefetch evicts. They are unpinned when the process ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with locked(folder / _LOCK):
            # Not a temporary file of `tempfile`, which other users could not read.
            self._file = (folder / f"{_PINNED}{uuid.uuid4().hex}").open("x")
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def pin(self, paths: Iterable[Path]) -> None:
        """Pin these copies instead of the earlier ones, whether they exist yet or not."""
        with locked(self._folder / _LOCK):
            self._file.seek(0)
            self._file.truncate()
            self._file.writelines(f"{_cache_key(path)}\n" for path in paths)
            self._file.flush()

    def close(self) -> None:
        """Unpin all."""
        self._file.close()


def evict(folder: Path, max_bytes: int, keep_pinned: bool) -> bool:
    """Remove copies, unpinned ones first, then by least recent use, until the rest and the running downloads fit.

    Args:
        folder: of all data sets.
        max_bytes: for all of them together.
        keep_pinned: do not remove pinned copies, and remove nothing at all if that is not enough.

    Returns:
        Whether everything fits now.
    """
    with locked(folder / _LOCK):
        total_bytes, copies, pinned = 0, [], set[str]()
        for path in folder.glob(f"{_PINNED}*"):
            if not _remove_if_stale(path):
                pinned.update(path.read_text().splitlines())
        for path in folder.glob("*/.*.tar.*.tmp"):
            if not _remove_if_stale(path):
                total_bytes += int(path.name.split(".")[-2])
        for path in folder.glob("*/*.tar"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                total_bytes += status.st_size
                copies.append((_cache_key(path) in pinned, status.st_mtime_ns, status.st_size, path))
        evicted = []
        for is_pinned, _, size_bytes, path in sorted(copies):
            if total_bytes <= max_bytes or (is_pinned and keep_pinned):
                break
            evicted.append(path)
            total_bytes -= size_bytes
        if total_bytes > max_bytes and keep_pinned:
            return False
        for path in evicted:
            path.unlink(missing_ok=True)
        return total_bytes <= max_bytes


def _cache_key(path: Path) -> str:
    """A copy's path below the cache folder, independent of how a process spells the folder."""
    return f"{path.parent.name}/{path.name}"


def _is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _remove_if_stale(path: Path) -> bool:
    """Remove a file whose creator was killed; False where a process holds its lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, path):
            path.unlink()
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
