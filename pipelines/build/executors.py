"""Who builds which shard. Every executor calls `build_shard` for each number; shards know nothing of one another, so all give the same bytes.

- local: decoding processes of this machine.
- slice: the same for every n-th shard, for the arrays of SLURM and Kubernetes.
- ray: one task for each shard, on the nodes of a cluster (`ray_executor.py`).
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from configs.errors import UsageError
from pipelines.build.build_spec import BuildJob
from pipelines.build.decode_worker import DecodingProcess
from pipelines.build.ray_executor import build_on_ray
from pipelines.build.row_table import RowTable
from pipelines.build.shards import build_shard

OnClips = Callable[[int, int], None]


def build_locally(job: BuildJob, table: RowTable, numbers: Sequence[int], processes: int, on_clips: OnClips) -> None:
    """Build some shards on this machine.

    Args:
        job: the data set.
        table: its rows.
        numbers: of the shards.
        processes: decoding processes, each building one shard at a time; 0: one for each core this process may use.
        on_clips: told of progress, from several threads, as (rows done, those of them turned away).

    Raises:
        OSError, CommandFailed: the disk fails or is full. As with Ctrl-C, all processes are ended first, and shards that are whole stay.
    """
    count = min(processes or len(os.sched_getaffinity(0)), len(numbers))
    workers = [DecodingProcess(job.root, job.decode) for _ in range(count)]
    idle: queue.SimpleQueue[DecodingProcess] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def build(number: int) -> None:
        worker = idle.get()
        try:
            build_shard(job, number, table.of_shard(number), worker, on_clips)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(max(1, count))  # they wait for the processes, and write
    try:
        for done in as_completed([threads.submit(build, number) for number in numbers]):
            done.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.stop()
        threads.shutdown(wait=True)


EXECUTORS = {"local": build_locally, "slice": build_locally, "ray": build_on_ray}


def shards_of_slice(text: str, shards: int) -> range:
    """The shards of part I of N, for `I/N`: every N-th. I may be counted from 0 or from 1, as long as all parts count alike.

    Raises:
        UsageError: no such part.
    """
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 0 <= int(part) <= int(parts) > 0):
        raise UsageError(f"slice={text!r} must be I/N, for example 3/100 (I from 0 to N-1, or from 1 to N), or finish")
    return range(int(part) % int(parts), shards, int(parts))
