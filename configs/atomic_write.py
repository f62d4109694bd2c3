"""Atomic file writes (temporary name, fsync, rename) and locks on folders."""

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from configs.errors import UsageError

# What flock answers on file systems without locks: NFS without a lock daemon, Lustre without `flock`, some of FUSE.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextlib.contextmanager
def atomic_open(path: Path, writer: str = "") -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only when it is complete and on disk.

    An error in the `with` block leaves nothing.

    Args:
        path: the name of the finished file.
        writer: unique name of this process, needed when several processes may write the same file at once.
    """
    temporary = temporary_path(path, writer)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def folder_lock(folder: Path, required: bool = False, key: str = "out") -> Iterator[None]:
    """Hold an exclusive lock on an existing folder; the kernel releases it when the process ends.

    Args:
        folder: to lock.
        required: fail on a file system without locks, instead of printing a warning.
        key: setting that named the folder, for the message.

    Raises:
        UsageError: another process holds the lock.
        OSError: the file system has no locks, and `required`.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{key}={folder} is being written by another command; wait for it, or give another folder"
            ) from None
        except OSError as error:
            if required or error.errno not in NO_LOCKS:
                raise
            reason = f"the file system of {folder} has no locks ({error.strerror})"
            print(f"warning: {reason}; make sure that no other command writes to it", file=sys.stderr)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_run_dir(folder: Path) -> Iterator[None]:
    """Create a folder if needed and hold `folder_lock` on it; remove it again if it is still empty at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()


def temporary_path(path: Path, writer: str = "") -> Path:
    """The name of a file while `writer` writes it; the next writer of that name overwrites what a killed one left."""
    return path.with_name(f".{path.name}{'.' if writer else ''}{writer}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file name is one of `temporary_path`."""
    return name.startswith(".") and name.endswith(".tmp")
