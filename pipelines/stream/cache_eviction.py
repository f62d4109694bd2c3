"""Room in a folder that several processes, runs and data sets fill with copies: what is in use, what will be needed soon, and what goes first.

Copies lie at FOLDER/DATA_SET/NAME.tar; while one is being fetched, at FOLDER/DATA_SET/.NAME.tar.BYTES.tmp, locked by whoever fetches it, so that room is
kept for all of it. All locks are the kernel's (flock), which lets go of them with their holder: what is not locked was left by a killed process and goes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

_LOCK = ".lock"
_NEEDED = ".needed-"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on a file, which is made, is empty and stays."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def temporary_copy(path: Path, size_bytes: int) -> Path:
    """Where a copy lies while it is fetched."""
    return path.with_name(f".{path.name}.{size_bytes}.tmp")


@contextlib.contextmanager
def download_lock(temporary: Path, wait: bool) -> Iterator[bool]:
    """The right to fetch a copy: yields whether it is ours. What lies at the path afterwards is removed.

    Args:
        temporary: where the copy lies while it is fetched; made, and locked.
        wait: until another that fetches it is through; False: yield False then.
    """
    while True:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            if _lies_at(descriptor, temporary):  # the one waited for has given it its name, or removed it
                try:
                    yield True
                finally:
                    if _lies_at(descriptor, temporary):
                        temporary.unlink()
                return
        finally:
            os.close(descriptor)


class PinnedShards:
    """What a run will read soon, told to all that share the folder: nothing is fetched ahead at its cost. It ends with the run, however that ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with locked(folder / _LOCK):
            self._file = tempfile.NamedTemporaryFile("w", prefix=_NEEDED, dir=folder)  # noqa: SIM115
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def state(self, paths: Iterable[Path]) -> None:
        """Say which copies are needed from now on, also those that are not here yet."""
        with locked(self._folder / _LOCK):
            self._file.seek(0)
            self._file.truncate()
            self._file.writelines(f"{_name(path)}\n" for path in paths)
            self._file.flush()

    def close(self) -> None:
        """Nothing is needed any more."""
        self._file.close()


def evict(folder: Path, max_bytes: int, spare_needed: bool) -> bool:
    """Remove copies, those that nobody needs soon first and of these the one used longest ago, until the rest and what is being fetched fit.

    Args:
        folder: of all data sets.
        max_bytes: for all of them together.
        spare_needed: remove nothing that is needed soon, and nothing at all if that is not enough.

    Returns:
        Whether everything fits now.
    """
    with locked(folder / _LOCK):
        held, found, needed = 0, [], set[str]()
        for path in folder.glob(f"{_NEEDED}*"):
            if not _removed_if_left(path):
                needed.update(path.read_text().splitlines())
        for path in folder.glob("*/.*.tar.*.tmp"):
            if not _removed_if_left(path):
                held += int(path.name.split(".")[-2])
        for path in folder.glob("*/*.tar"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                held += status.st_size
                found.append((_name(path) in needed, status.st_mtime_ns, status.st_size, path))
        goes = []
        for is_needed, _, size_bytes, path in sorted(found):
            if held <= max_bytes or (is_needed and spare_needed):
                break
            goes.append(path)
            held -= size_bytes
        if held > max_bytes and spare_needed:
            return False
        for path in goes:
            path.unlink(missing_ok=True)
        return held <= max_bytes


def _name(path: Path) -> str:
    """A copy's name in the folder, however a process writes the folder's."""
    return f"{path.parent.name}/{path.name}"


def _lies_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _removed_if_left(path: Path) -> bool:
    """Whether a file is gone, its maker having been killed; else somebody holds its lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _lies_at(descriptor, path):
            path.unlink()
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
