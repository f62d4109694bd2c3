"""Locks that keep two downloads from writing the same files."""

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UsageError

# What flock answers on a file system without locks, such as some NFS and FUSE mounts.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextlib.contextmanager
def lock_file(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock; the kernel releases it when the process ends. Without effect where locks do not exist.

    Args:
        path: an empty file, created if needed.
        wait: wait for another holder instead of failing.

    Raises:
        UsageError: another process holds the lock, and `wait` is False.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise UsageError(
                    f"source.root={path.parent} is being downloaded by another command; wait for it, or give each "
                    "command its own slice=I/N"
                ) from None
            print(f"waiting for another command that downloads files to {path.parent}", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)
