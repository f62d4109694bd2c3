"""How a loader worker lives: it leaves Ctrl-C to the run and ends with it, silently, however the run ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess
from types import TracebackType


def end_with_the_run(_worker: int) -> None:
    """Set up a worker process; a DataLoader calls it with the worker's number.

    torch's own watch looks at the worker's parent, the fork server, which in turn lives as long as a worker does: both would outlive a SIGKILL.
    The thread that hands tensors over would print its stack when the run goes away in the middle; mistakes in making a batch travel another way.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _report_all_but_a_lost_connection
    threading.Thread(target=_exit_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _report_all_but_a_lost_connection(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _exit_after(run: BaseProcess) -> None:
    run.join()
    os._exit(0)
