"""Setup of a loader worker: it ignores Ctrl-C and exits silently when the training process ends, even by SIGKILL."""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess
from types import TracebackType


def exit_with_parent(_worker: int) -> None:
    """Set up a worker process; a DataLoader calls it with the worker's number.

    torch's watchdog watches the worker's parent, which is the fork server, and the fork server lives as long as a
    worker does: both would survive a SIGKILL of the training process. The thread that sends tensors would print a stack
    trace when the connection is lost; errors in making a batch are returned instead of raised (`ClipDataset`).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _ignore_lost_connections
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _ignore_lost_connections(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _exit_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(0)
