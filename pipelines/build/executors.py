"""Which process builds which shard.

All executors call `build_shard` once per shard; shards are independent, so all executors give the same bytes.

- local: decoding processes on this machine.
- slice: as local, for every N-th shard, in job arrays of SLURM and Kubernetes.
- ray: one task per shard, on the nodes of a Ray cluster (ray_executor.py).
"""

import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from configs.errors import UsageError
from pipelines.build.build_spec import BuildSpec
from pipelines.build.decode_worker import DecodingProcess
from pipelines.build.ray_executor import build_on_ray
from pipelines.build.row_table import RowTable
from pipelines.build.shards import build_shard

OnClips = Callable[[int, int], None]


def build_locally(spec: BuildSpec, table: RowTable, numbers: Sequence[int], processes: int, on_clips: OnClips) -> None:
    """Build shards on this machine.

    Args:
        spec: the data set.
        table: its rows.
        numbers: numbers of the shards.
        processes: decoding processes, each building one shard at a time; 0 means one per available core.
        on_clips: progress callback, called from several threads with (finished rows, rejected rows among them).

    Raises:
        OSError, CommandFailed: the disk fails or is full. As with Ctrl-C, all processes are ended first; finished
            shards are kept.
    """
    count = min(processes or len(os.sched_getaffinity(0)), len(numbers))
    workers = [DecodingProcess(spec.root, spec.decode) for _ in range(count)]
    idle: queue.SimpleQueue[DecodingProcess] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def build(number: int) -> None:
        worker = idle.get()
        try:
            build_shard(spec, number, table.of_shard(number), worker, on_clips)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(max(1, count))  # they wait for the processes and write the shards
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
    """The shards of slice I of N, given as `I/N`: every N-th shard. I may count from 0 or from 1, but the same for all.

    Raises:
        UsageError: the text is not a slice.
    """
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 0 <= int(part) <= int(parts) > 0):
        raise UsageError(f"slice={text!r} must be I/N, for example 3/100 (I from 0 to N-1, or from 1 to N), or finish")
    return range(int(part) % int(parts), shards, int(parts))
