"""A thread of the training process that receives the batches of the loader's workers, one ahead of the training step.

A batch that is ready takes some milliseconds to arrive, most of them until its worker, which is busy, passes the file
descriptor; and some to be freed. A GPU should wait for neither.
"""

import contextlib
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from pipelines.stream.batch import HostBatch

# The batch that is being received when a receiver is closed usually arrives within it.
_CLOSE_TIMEOUT_S = 6.0
_open = weakref.WeakSet["BatchReceiver"]()


class BatchReceiver(Iterator[HostBatch]):
    """Iterates over what `take` returns until it returns None; its errors are raised here.

    Args:
        take: called in a thread of its own.
    """

    def __init__(self, take: Callable[[], HostBatch | None]) -> None:
        self._take = take
        self._slot = queue.Queue[HostBatch | BaseException | None](1)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()
        _open.add(self)

    def __next__(self) -> HostBatch:
        outcome = self._slot.get()
        if outcome is None:
            raise StopIteration
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def close(self) -> None:
        """End the thread. One that is still inside torch when Python exits would abort the process."""
        self._is_closed.set()
        with contextlib.suppress(queue.Empty):
            self._slot.get_nowait()  # the thread may be waiting for space
        self._thread.join(_CLOSE_TIMEOUT_S)
        _open.discard(self)

    def _fill(self) -> None:
        outcome: HostBatch | BaseException | None
        recent = deque[Any](maxlen=3)  # the last reference to a batch is this one, so that it is freed here
        while not self._is_closed.is_set():
            try:
                outcome = self._take()
            except BaseException as error:  # raised in the training thread
                outcome = error
            recent.append(outcome)
            self._slot.put(outcome)
            if not isinstance(outcome, HostBatch):
                return


def close_receivers() -> None:
    """Close those that are open when the process exits."""
    for receiver in list(_open):
        receiver.close()
