"""The folder of a data set on a file system of this machine."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import BinaryIO

from configs.atomic_write import atomic_open, folder_lock, is_temporary

_SCRATCH = ".scratch-"


class LocalFolder:
    """Reads and writes the files of a local folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def __reduce__(self) -> tuple[type[LocalFolder], tuple[Path]]:
        return LocalFolder, (self.path.absolute(),)  # the working directory of another process may differ

    def create(self) -> None:
        """Create the folder if it does not exist."""
        self.path.mkdir(parents=True, exist_ok=True)

    def folder_lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold `configs.atomic_write.folder_lock` on the folder."""
        return folder_lock(self.path)

    def sizes(self, pattern: str = "*") -> dict[str, int]:
        """Size in bytes of each finished file whose name matches; empty if the folder does not exist."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path) as entries:
            return {
                entry.name: entry.stat().st_size
                for entry in entries
                if fnmatch.fnmatch(entry.name, pattern) and not is_temporary(entry.name) and entry.is_file()
            }
        return {}

    def size_bytes(self, name: str) -> int:
        """Size of a file; raises FileNotFoundError if it does not exist."""
        return (self.path / name).stat().st_size

    def open(self, name: str) -> io.BufferedReader:
        """Open a file for reading and seeking; raises FileNotFoundError if it does not exist."""
        return (self.path / name).open("rb")

    def atomic_open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open a file for writing that appears under its name when it is complete."""
        return atomic_open(self.path / name, writer_name())

    def remove(self, name: str) -> None:
        """Delete a file, if it exists."""
        (self.path / name).unlink(missing_ok=True)

    def scratch(self) -> tempfile.TemporaryDirectory[str]:
        """A temporary folder for the duration of a `with` block."""
        return tempfile.TemporaryDirectory(dir=self.path, prefix=_SCRATCH)

    def remove_leftovers(self, pattern: str = "*") -> None:
        """Delete what killed writers left: unfinished files whose names match, and scratch folders."""
        for path in self.path.glob(f".{pattern}"):
            if is_temporary(path.name):
                path.unlink(missing_ok=True)
            elif path.name.startswith(_SCRATCH):
                shutil.rmtree(path, ignore_errors=True)


def writer_name() -> str:
    """A name for this process that is unique among all machines that may write to a folder."""
    return f"{socket.gethostname()}-{os.getpid()}"
