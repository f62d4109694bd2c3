"""Stop a run on SIGTERM, SIGUSR1, Ctrl-C or a time limit: if one rank has to stop, all ranks stop after the same step.

Ranks exchange their state once per step, when all have their data, over a process group on the CPU: nothing waits for a
GPU, and data that never arrive (a hanging store) do not keep a rank from stopping. A stopped run leaves a checkpoint
and the marker file REQUEUE.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

from configs.errors import CommandFailed

if TYPE_CHECKING:
    from torch import distributed

T = TypeVar("T")

# Interval at which a rank that waits for data exchanges its state with the others.
POLL_INTERVAL_S = 0.5
# Time before the end of its SLURM job at which a run stops: for the current step, an evaluation and the checkpoint.
SLURM_MARGIN_S = 300.0
# Ctrl-C reaches a process twice if the launcher forwards it; within this time it counts once.
DUPLICATE_INTERRUPT_S = 1.0


class StopReason(IntEnum):
    """Why to stop; of two reasons the larger one is reported."""

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
        """Whether the scheduler or a time limit stopped the run, and not the user."""
        return self not in (StopReason.NONE, StopReason.INTERRUPT)


_REASONS: dict[int, StopReason] = {
    signal.SIGINT: StopReason.INTERRUPT,
    signal.SIGUSR1: StopReason.SIGUSR1,
    signal.SIGTERM: StopReason.SIGTERM,
}


class Preemption:
    """Handles signals from its construction on. A second Ctrl-C ends the process at once.

    Args:
        time_limit_min: from now on; 0: only the end of the SLURM job (SLURM_JOB_END_TIME), shortly before which every
            run stops.

    Attributes:
        reason: why all ranks stop; NONE while they do not.
    """

    def __init__(self, time_limit_min: float = 0.0) -> None:
        self.reason = self._received = StopReason.NONE
        self._interrupted_s = 0.0
        self._group: distributed.ProcessGroup | None = None
        slurm_end_s = os.environ.get("SLURM_JOB_END_TIME", "")
        limits_s = [time.time() + 60 * time_limit_min] if time_limit_min else []
        limits_s += [float(slurm_end_s) - SLURM_MARGIN_S] if slurm_end_s.isdigit() else []
        self._ends_s = min(limits_s, default=math.inf)
        for number in _REASONS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGINT:
            if self._interrupted_s and time.monotonic() > self._interrupted_s + DUPLICATE_INTERRUPT_S:
                raise KeyboardInterrupt
            self._interrupted_s = self._interrupted_s or time.monotonic()
        if not self._received and os.environ.get("RANK", "0") == "0":  # print is not safe in signal handlers
            os.write(2, f"\n{_REASONS[number].name}: stopping after the current step, then saving\n".encode())
        self._received = max(self._received, _REASONS[number])

    def ignore_signals(self) -> None:
        """Ignore further signals, until the process ends: the result of the run is decided, and its files are written.

        Python restores the default action, which is to end the process, of every handled signal before it exits.
        """
        for number in _REASONS:
            signal.signal(number, signal.SIG_IGN)

    def local_reason(self) -> StopReason:
        """Why this rank should stop, regardless of the others."""
        return max(self._received, StopReason.TIME_LIMIT if time.time() >= self._ends_s else StopReason.NONE)

    def join(self, distributed_timeout_s: float) -> None:
        """Include the other ranks from now on; to be called after the process group is initialized."""
        from datetime import timedelta

        from torch import distributed

        if distributed.is_initialized() and distributed.get_world_size() > 1:
            self._group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=distributed_timeout_s))

    def next_or_stop(self, items: Iterator[T]) -> T | None:
        """The next item, when every rank has one; None on every rank if one has to stop, and then `reason` is set.

        Raises:
            CommandFailed: another rank failed to get an item. On that rank, whatever `items` raised.
        """
        request: Future[T] = Future()
        threading.Thread(target=_fetch_next, args=(items, request), daemon=True).start()
        while True:
            is_done = bool(wait([request], POLL_INTERVAL_S).done)
            error = request.exception() if is_done else None
            reason, failed, waiting = self.all_reduce_max(self.local_reason(), error is not None, not is_done)
            if failed:
                raise error or CommandFailed("another rank failed; see its error above")
            if reason:
                self.reason = StopReason(reason)
                return None
            if not waiting:
                return request.result()

    def all_ranks(self, holds: bool) -> bool:
        """Whether a condition holds on every rank; waits for all ranks."""
        return not self.all_reduce_max(not holds)[0]

    def all_reduce_max(self, *values: int) -> list[int]:
        """The maximum of each value over all ranks."""
        if self._group is None:
            return list(values)
        import torch

        reduced = torch.tensor(values, dtype=torch.int64)
        torch.distributed.all_reduce(reduced, torch.distributed.ReduceOp.MAX, group=self._group)
        return reduced.tolist()


def _fetch_next(items: Iterator[T], request: Future[T]) -> None:
    """Runs in a daemon thread, so that waiting for an item does not block the process."""
    try:
        request.set_result(next(items))
    except BaseException as error:  # raised in the requesting thread
        request.set_exception(error)
