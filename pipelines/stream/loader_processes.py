"""The worker processes of a DataLoader: their start, the batches that they send, and their end, also a violent one."""

import atexit
import errno
import multiprocessing
import signal
import threading
from collections.abc import Collection, Iterator
from functools import partial
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

from configs.errors import CommandFailed, UsageError
from pipelines.stream.batch import HostBatch
from pipelines.stream.batch_receiver import BatchReceiver, close_receivers
from pipelines.stream.shared_batch import SharedBatch

# Held while a loader starts its workers, in any thread.
_starting_workers = threading.Lock()
# A lost connection is noticed before the end of the process that it led to.
_EXIT_STATUS_TIMEOUT_S = 3.0
_FEWER = "use a smaller stream.num_workers, stream.prefetch_factor or global_batch_size"
_KILLED_BY: dict[int, str] = {
    signal.SIGKILL: f"the machine or its container is out of memory: {_FEWER}, or raise the memory limit",
    signal.SIGBUS: "a shard or its index was cut off while it was read, or its disk failed: check the shards with "
    "python -m pipelines.verify DIR",
    signal.SIGSEGV: "a decoder crashed on a damaged clip: check the shards with python -m pipelines.verify DIR",
}


def start_fork_server() -> None:
    """Start the fork server, the parent of all workers.

    It and its workers block SIGINT, SIGTERM and SIGUSR1 from the start: Ctrl-C and the signals of a cluster reach all
    processes of a run at once, and the training process, which handles them, needs its data until it stops.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        resource_tracker.ensure_running()  # unblocks the other two signals
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    atexit.unregister(_end_workers)  # registered once, however many loaders there are
    atexit.register(_end_workers)


def iterate(loader: DataLoader[HostBatch]) -> Iterator[HostBatch]:
    """The batches of a loader, with or without workers.

    Raises:
        UsageError, CommandFailed: what the loader returns in place of a batch.
        CommandFailed: a worker does not start, or has ended; at most 8 s after its end.
    """
    with _starting_workers:
        others = multiprocessing.active_children()
        try:
            _check_semaphores(loader)
            batches = iter(loader)
        except OSError as error:
            raise CommandFailed(_not_started(error)) from None
        workers = [child for child in multiprocessing.active_children() if child not in others]
    take = partial(_next, batches, workers)
    received = BatchReceiver(take) if workers else None
    try:
        yield from received or iter(take, None)
    finally:
        if received:
            received.close()
        for worker in workers:  # nothing is lost; one that the lock of a killed worker blocks would not end by itself
            worker.kill()


def _next(batches: Iterator[Any], workers: Collection[BaseProcess]) -> HostBatch | None:
    try:
        batch = next(batches, None)
        if isinstance(batch, SharedBatch):
            batch = batch.fetch()
    except (RuntimeError, OSError, EOFError) as error:
        if ended := _ended(workers):
            raise CommandFailed(_end_of_worker(ended)) from None
        if workers and isinstance(error, OSError) and error.strerror:  # too many open files, for example
            raise CommandFailed(f"cannot fetch a batch from a loader worker: {error.strerror}") from None
        raise
    if isinstance(batch, (UsageError, CommandFailed)):
        raise batch
    return batch


def _check_semaphores(loader: DataLoader[HostBatch]) -> None:
    """Create and delete as many semaphores as the loader will: a DataLoader that fails to prints a stack trace."""
    context = loader.multiprocessing_context
    if context is not None:
        _ = [context.Lock() for _ in range(8 + 4 * loader.num_workers)]


def _not_started(error: OSError) -> str:
    message = f"loader workers do not start: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.ENOENT, errno.EACCES, errno.EROFS):  # of sem_open
        message += "; their semaphores are in /dev/shm, which has to exist, be writable and have 1 MB free"
    return f"{message}; stream.num_workers=0 loads in the training process"


def _ended(workers: Collection[BaseProcess]) -> list[BaseProcess]:
    """The workers that have ended."""
    connection.wait([worker.sentinel for worker in workers], _EXIT_STATUS_TIMEOUT_S if workers else 0)
    return [worker for worker in workers if worker.exitcode is not None]


def _end_of_worker(ended: Collection[BaseProcess]) -> str:
    code = min(worker.exitcode or 0 for worker in ended)  # signals are negative
    if code >= 0:
        return f"a loader worker ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    cause = _KILLED_BY.get(-code)
    return f"a loader worker was killed by {name}" + (f"; probably {cause}" if cause else "")


def _end_workers() -> None:
    """Kill the remaining workers when the process exits: multiprocessing would send a signal that they block, and wait.

    Wait for workers that are being started: without their parent they would fail to unpickle their arguments and print
        a stack trace.
    """
    close_receivers()
    if _starting_workers.acquire(timeout=20):
        _starting_workers.release()
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
