"""Who builds which shard. Every executor calls `build_shard` for each number; shards know nothing of one another, so all give the same bytes."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

from pipelines.build.shards import BuildJob, build_shard
from pipelines.build.worker import DecodingProcess


def build_locally(job: BuildJob, processes: int, on_clips: Callable[[int, int], None]) -> None:
    """Build all shards on this machine.

    Args:
        job: the data set.
        processes: decoding processes, each building one shard at a time; 0: one for each core this process may use.
        on_clips: told of progress, from several threads, as (rows done, those of them turned away).

    Raises:
        OSError, RunFailed: the disk fails or is full. As with Ctrl-C, all processes are ended first, and shards that are whole stay.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(processes or cores, job.shards)
    workers = [DecodingProcess(job.root, job.decode) for _ in range(count)]
    idle: queue.SimpleQueue[DecodingProcess] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def build(number: int) -> None:
        worker = idle.get()
        try:
            build_shard(job, number, worker, on_clips)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(max(1, count))  # they wait for the processes, and write
    try:
        for done in as_completed([threads.submit(build, number) for number in range(job.shards)]):
            done.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.stop()
        threads.shutdown(wait=True)
