"""Writes clips into the tar of a shard through webdataset's TarWriter: the same members give the same bytes.

By default, TarWriter sorts the members of a sample and writes the current time and its own owner into their headers.
Here the members of a clip are written one by one, in their order, with time 0 and without an owner. A name over 100
bytes, which a plain tar header cannot hold, gets a PAX header before it, as stock readers expect.
"""

import functools
import sys
import tarfile
import threading
from typing import Any, Protocol

_importing = threading.Lock()


class Writable(Protocol):
    """What a tar is written to."""

    def write(self, data: bytes, /) -> int: ...


def open_tar_writer(file: Writable) -> Any:
    """A webdataset.TarWriter on a file; a context manager that finishes the tar and leaves the file open."""
    with _importing:
        return _tar_writer_class()(file, user="", group="", mode=0o644, mtime=0, encoder=False)


def add_members(writer: Any, key: str, files: dict[str, bytes]) -> dict[str, tuple[int, int]]:
    """Append the members of a clip; returns (offset, size) in bytes of the data of each, by extension."""
    byte_ranges = {}
    for extension, data in files.items():
        writer.write({"__key__": key, extension: data})
        blocks = -(-len(data) // tarfile.BLOCKSIZE)
        byte_ranges[extension] = (writer.tarstream.offset - blocks * tarfile.BLOCKSIZE, len(data))
    return byte_ranges


@functools.cache
def _tar_writer_class() -> Any:
    """Import TarWriter, without torch.

    Importing webdataset imports torch where it is installed: 2 to 6 s and 300 MB in each process that writes shards,
    for nothing. Without it, webdataset defines substitutes for classes of torch, so this copy of webdataset is
    forgotten afterwards: a later import in the same process gets the usual one.
    """
    if "torch" in sys.modules or "webdataset" in sys.modules:
        from webdataset import TarWriter

        return TarWriter
    sys.modules["torch"] = None  # type: ignore[assignment] # makes `import torch` raise ModuleNotFoundError
    try:
        from webdataset import TarWriter

        return TarWriter
    finally:
        for name in [name for name in sys.modules if name == "torch" or name.partition(".")[0] == "webdataset"]:
            del sys.modules[name]
