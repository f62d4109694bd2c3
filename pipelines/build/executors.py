"""Who builds which shard. Every executor calls `build_shard` for each number; shards know nothing of one another, so all give the same bytes.

- local: decoding processes of this machine.
- slice: the same for every n-th shard, for the arrays of SLURM and Kubernetes.
- ray: one task for each shard, on whatever nodes a Ray cluster has and keeps.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from configs.command import RunFailed, UsageError
from pipelines.build.job import BuildJob
from pipelines.build.rows import RowTable
from pipelines.build.shards import build_shard
from pipelines.build.worker import DecodingProcess

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
        OSError, RunFailed: the disk fails or is full. As with Ctrl-C, all processes are ended first, and shards that are whole stay.
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


def build_on_ray(job: BuildJob, table: RowTable, numbers: Sequence[int], processes: int, on_clips: OnClips) -> None:
    """Build some shards on a Ray cluster: the one RAY_ADDRESS names, or one of this machine.

    A task whose node is lost is started again elsewhere. Media and `out` have to be reachable under the same names on every node.

    Args:
        job, table, numbers, on_clips: as for `build_locally`; progress comes shard by shard.
        processes: decoding processes at once over the cluster; 0: one for each of its cores.

    Raises:
        UsageError: Ray is not installed.
        RunFailed: a shard cannot be written, or its task was lost time and again.
    """
    try:
        import ray
    except ImportError:
        raise UsageError("executor=ray needs the package ray: install the extra farm (pip install -e '.[farm]')") from None
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
    try:
        task = ray.remote(num_cpus=1, max_retries=10, retry_exceptions=False)(_build_one)
        at_once = processes or max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = iter(numbers)
        running = [task.remote(job, number, table.of_shard(number)) for number in (next(waiting, None) for _ in range(at_once)) if number is not None]
        while running:
            done, running = ray.wait(running)
            for rows, rejected in _results(ray, done):
                on_clips(rows, rejected)
            running += [task.remote(job, number, table.of_shard(number)) for number in (next(waiting, None) for _ in done) if number is not None]
    finally:
        if started:
            ray.shutdown()


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


def _build_one(job: BuildJob, number: int, rows: list) -> tuple[int, int]:
    """A task of Ray; returns rows done, and those of them turned away."""
    process = DecodingProcess(job.root, job.decode)
    counts: list[tuple[int, int]] = []
    try:
        build_shard(job, number, rows, process, lambda done, rejected: counts.append((done, int(rejected))))
    finally:
        process.stop()
    return sum(done for done, _ in counts), sum(rejected for _, rejected in counts)


def _results(ray, tasks: list) -> list[tuple[int, int]]:
    try:
        return ray.get(tasks)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, (RunFailed, OSError)) else error from None
    except ray.exceptions.RayError as error:
        raise RunFailed(f"the Ray cluster has failed: {str(error).splitlines()[0]}; finished shards are kept, run the same command again") from None
