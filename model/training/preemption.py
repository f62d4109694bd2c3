"""Being told to stop: SIGTERM, SIGUSR1, Ctrl-C or a time limit, on any rank, and then every rank stops after the same step.

Ranks agree once for each step, when all have their data, over a group on the CPU: nothing waits for a GPU, and data that do not come
(a store that hangs) keep no rank from being stopped. What a run that was stopped leaves is a checkpoint and the marker file REQUEUE.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from enum import IntEnum
from typing import Generic, TypeVar

from configs.errors import CommandFailed

T = TypeVar("T")

# How often a rank that waits for data listens to the others.
LISTEN_EVERY_S = 0.5
# How long before the end of its SLURM job a run stops: for the step under way, an evaluation and the checkpoint.
SLURM_MARGIN_S = 300.0
# Ctrl-C reaches a process twice when its launcher passes it on too.
SAME_INTERRUPT_S = 1.0


class StopReason(IntEnum):
    """Why to stop; of two, the larger one is told."""

    NONE = 0
    INTERRUPT = 1
    TIME_LIMIT = 2
    SIGUSR1 = 3
    SIGTERM = 4

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, otherwise 75 (EX_TEMPFAIL: try again). `accelerate launch` turns either into 1."""
        return 130 if self == StopReason.INTERRUPT else os.EX_TEMPFAIL

    @property
    def should_requeue(self) -> bool:
        """Whether it was the machine that was wanted back, and not the user who had enough."""
        return self not in (StopReason.NONE, StopReason.INTERRUPT)


_REASON_OF = {
    signal.SIGINT: StopReason.INTERRUPT,
    signal.SIGUSR1: StopReason.SIGUSR1,
    signal.SIGTERM: StopReason.SIGTERM,
}


class Preemption:
    """Listens from its making on. A second Ctrl-C ends the process at once.

    Args:
        time_limit_min: from now on; 0: none but the end of the SLURM job (SLURM_JOB_END_TIME), shortly before which every run stops.

    Attributes:
        reason: why all ranks have agreed to stop; NONE as long as they have not.
    """

    def __init__(self, time_limit_min: float = 0.0) -> None:
        self.reason, self._heard, self._interrupted_s, self._group = StopReason.NONE, StopReason.NONE, 0.0, None
        slurm_end_s = os.environ.get("SLURM_JOB_END_TIME", "")
        limits_s = [time.time() + 60 * time_limit_min] if time_limit_min else []
        limits_s += [float(slurm_end_s) - SLURM_MARGIN_S] if slurm_end_s.isdigit() else []
        self._ends_s = min(limits_s, default=math.inf)
        for number in _REASON_OF:
            signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: object) -> None:
        if number == signal.SIGINT:
            if self._interrupted_s and time.monotonic() > self._interrupted_s + SAME_INTERRUPT_S:
                raise KeyboardInterrupt
            self._interrupted_s = self._interrupted_s or time.monotonic()
        if not self._heard and os.environ.get("RANK", "0") == "0":
            os.write(
                2, f"\n{_REASON_OF[number].name}: stopping after the step under way, then saving\n".encode()
            )  # print is not for signal handlers
        self._heard = max(self._heard, _REASON_OF[signal.Signals(number)])

    def local_reason(self) -> StopReason:
        """Why this rank should stop, whatever the others have heard."""
        return max(self._heard, StopReason.TIME_LIMIT if time.time() >= self._ends_s else StopReason.NONE)

    def join(self, distributed_timeout_s: float) -> None:
        """Listen to the other ranks too, once there is a process group."""
        from datetime import timedelta

        from torch import distributed

        if distributed.is_initialized() and distributed.get_world_size() > 1:
            self._group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=distributed_timeout_s))

    def sync_reason(self) -> StopReason:
        """Why to stop, the same on every rank; every rank has to call it. For work that is no step, such as an evaluation, between its parts."""
        (local_reason,) = self.all_reduce_max(self.local_reason())
        self.reason = StopReason(local_reason)
        return self.reason

    def next_or_stop(self, items: Iterator[T]) -> T | None:
        """The next item once every rank has its own, or None on every rank as soon as one has to stop; then `reason` tells why.

        Raises:
            CommandFailed: there is none on another rank. On that one, whatever `items` raised.
        """
        arrival = _AsyncNext(items)
        while True:
            arrived = arrival.done.wait(LISTEN_EVERY_S)
            local_reason, failed, waiting = self.all_reduce_max(
                self.local_reason(), arrival.error is not None, not arrived
            )
            if failed:
                raise arrival.error or CommandFailed("another process of the run could not go on, and says why")
            if local_reason:
                self.reason = StopReason(local_reason)
                return None
            if not waiting:
                return arrival.item

    def all_ranks(self, holds: bool) -> bool:
        """Whether something holds on every rank; nobody goes on before all have answered."""
        return not self.all_reduce_max(not holds)[0]

    def all_reduce_max(self, *values: int) -> list[int]:
        """The highest of all ranks for each value."""
        if self._group is None:
            return list(values)
        import torch

        sync_reason = torch.tensor(values, dtype=torch.int64)
        torch.distributed.all_reduce(sync_reason, torch.distributed.ReduceOp.MAX, group=self._group)
        return sync_reason.tolist()


class _AsyncNext(Generic[T]):
    """An item asked for in a thread, which may wait for it as long as it likes: it keeps nobody from leaving."""

    def __init__(self, items: Iterator[T]) -> None:
        self.item: T | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()
        threading.Thread(target=self._fetch, args=(items,), daemon=True).start()

    def _fetch(self, items: Iterator[T]) -> None:
        try:
            self.item = next(items)
        except BaseException as error:  # it belongs to the thread that asked
            self.error = error
        self.done.set()
