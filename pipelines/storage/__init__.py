"""The folder of a data set: local, or any fsspec address (s3://bucket/train). Files appear in it atomically.

Local files are written under a temporary name, synced and renamed (local_folder.py). An upload to an object store
appears when it is complete; on other file systems (sftp, hdfs, smb) it is renamed (remote_folder.py).
"""

from pipelines.storage.local_folder import LocalFolder
from pipelines.storage.remote_folder import RemoteFolder

__all__ = ["Folder", "LocalFolder", "RemoteFolder", "open_folder", "read", "write"]

Folder = LocalFolder | RemoteFolder


def open_folder(address: str) -> Folder:
    """The folder at a path or fsspec address; it need not exist.

    Raises:
        UsageError: no installed file system supports the address.
    """
    protocol, separator, path = address.partition("://")
    if separator and protocol not in ("file", "local"):
        return RemoteFolder(address)
    return LocalFolder(path if separator else address)


def read(folder: Folder, name: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    with folder.open(name) as file:
        return file.read()


def write(folder: Folder, name: str, data: bytes) -> None:
    """Write a file, which appears atomically."""
    with folder.atomic_open(name) as file:
        file.write(data)
