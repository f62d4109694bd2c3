"""Start worker processes by a fork server, which has no threads and holds the modules that all workers need."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext

from configs.errors import UsageError

# Linux allows 107 bytes in the path of a socket; multiprocessing appends /pymp-XXXXXXXX/listener-XXXXXXXX.
MAX_TMPDIR_BYTES = 107 - 32


def forkserver_context(preload: Sequence[str]) -> ForkServerContext:
    """The context to start worker processes from.

    Args:
        preload: modules that the fork server imports once for all workers.

    Raises:
        UsageError: the path of the folder for temporary files is too long for the sockets of the fork server.
    """
    folder = tempfile.gettempdir()
    if (size_bytes := len(os.fsencode(folder))) > MAX_TMPDIR_BYTES:
        raise UsageError(
            f"TMPDIR={folder}: its path of {size_bytes} bytes is too long for the sockets of worker processes; "
            f"set TMPDIR to a folder with at most {MAX_TMPDIR_BYTES}"
        )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context
