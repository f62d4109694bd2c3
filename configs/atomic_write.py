"""Write a file so that it is there whole or not at all, whatever happens (temporary name, fsync, rename), and keep others out of a folder meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from configs.errors import UsageError


@contextlib.contextmanager
def atomic_open(path: Path, writer: str = "") -> Iterator[BinaryIO]:
    """A file to write that appears under its name only when it is complete and on disk; on an error nothing appears.

    Args:
        path: its name.
        writer: a name for this process among all that might write the file at once; "": there is no other.
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
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a lock on an existing folder, which the kernel lets go with the process.

    Raises:
        UsageError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"out={folder} is being written by another command; wait for it, or give another folder"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_run_dir(folder: Path) -> Iterator[None]:
    """`folder_lock` of a folder that is made when needed, and that is gone again, as a command that was refused leaves it, when nothing came into it."""
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()


def temporary_path(path: Path, writer: str = "") -> Path:
    """Where a writer puts a file before it gets its name; what it left there when it was killed is overwritten by the next of that name."""
    return path.with_name(f".{path.name}{'.' if writer else ''}{writer}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that somebody is writing, or was killed writing."""
    return name.startswith(".") and name.endswith(".tmp")
