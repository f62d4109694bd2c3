"""Shards built on a Ray cluster: one task for each, on whatever nodes the cluster has and keeps.

The cluster is the one RAY_ADDRESS names (host:port of its head, or auto on a node of it), else one of this machine for the time of the build. Every node
needs the packages of requirements-build.lock and the driver's versions of Ray and Python; our own code is sent along. Media and `out` lie under the
same names everywhere; a node that sees others ends the build with one line. A task whose node is lost is started again elsewhere.
Limits: the driver and the head of the cluster must last; if one is lost, the same command goes on. Progress comes shard by shard. When the driver is
killed by SIGKILL, two idle agents of a local cluster end a minute later; everything else ends at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.errors import CommandFailed, UsageError
from pipelines.build.build_spec import BuildJob, versions
from pipelines.build.decode_worker import DecodingProcess
from pipelines.build.row_table import RowTable
from pipelines.build.shards import build_shard
from pipelines.manifest import Clip, Rejected
from pipelines.storage import read

_RETRIES = 10  # of a shard whose node or worker was lost
_MIN_WAITING = 32  # tasks in flight: those that wait are what makes an autoscaler add nodes
_WITNESS_ROWS = 1000
_OBJECT_STORE_BYTES = 128 << 20  # it holds the rows of the tasks in flight, 0.3 MB for a thousand clips
_ANSWER_S = 10


def build_on_ray(
    job: BuildJob, table: RowTable, numbers: Sequence[int], processes: int, on_clips: Callable[[int, int], None]
) -> None:
    """Build some shards on a Ray cluster.

    Args:
        job: the data set.
        table: its rows.
        numbers: of the shards.
        processes: decoding processes at once over the cluster; 0: one for each of its cores.
        on_clips: told of progress as (rows done, those of them turned away).

    Raises:
        UsageError: Ray is not installed, or RAY_ADDRESS is no address.
        CommandFailed, OSError: a shard cannot be written, the cluster does not answer, or a task was lost time and again. As with Ctrl-C, all tasks are
            ended first, and shards that are whole stay.
    """
    witness = _sentinel_file(job, table)
    with _cluster() as ray:
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_build_one)
        waiting = iter(numbers)
        running: list[Any] = []
        while True:
            at_once = processes or max(
                _MIN_WAITING, 2 * int(ray.cluster_resources().get("CPU", 0))
            )  # nodes come and go
            while len(running) < at_once and (number := next(waiting, None)) is not None:
                running.append(task.remote(job, number, table.of_shard(number), witness))
            if not running:
                break
            done, running = ray.wait(running)
            for finished in done:
                on_clips(*_result(ray, finished))
    job.out.remove_leftovers(f"{job.split}-*")  # of nodes that were lost while they wrote


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    """The module ray, connected to the cluster that RAY_ADDRESS names, or to one of this machine's own."""
    address = os.environ.get("RAY_ADDRESS") or "local"
    only_local: dict[str, Any] = {}
    if address == "local":
        # A token of this run's own, known before ray is imported: else Ray writes one into the home folder, or lets in whoever reaches its ports.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        only_local = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    elif address != "auto":
        _check_answer(address)
    try:
        import ray
    except ImportError:
        raise UsageError(
            "executor=ray needs the package ray: install the extra farm (pip install -e '.[farm]')"
        ) from None
    house = Path(__file__).resolve().parents[2]
    code = {"py_modules": [str(house / "configs"), str(house / "pipelines")], "excludes": ["__pycache__"]}
    try:
        ray.init(address=address, runtime_env=code, log_to_driver=False, configure_logging=False, **only_local)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        ray.shutdown()
        raise CommandFailed(f"Ray cannot be used (RAY_ADDRESS is {address}): {_first_line(error)}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answer(address: str) -> None:
    """Find out at once what Ray itself would take two minutes for, and then end this process.

    Raises:
        UsageError: that is no address.
        CommandFailed: nothing answers there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise UsageError(
            f"RAY_ADDRESS={address!r} is not HOST:PORT of a cluster's head (6379 is the usual port), auto, or empty for a cluster of this machine"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise CommandFailed(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {error}; start its head, or unset RAY_ADDRESS for a cluster of this machine"
        ) from None


def _sentinel_file(job: BuildJob, table: RowTable) -> str:
    """A media file that is there, which every node must see too: where it does not, a shard would be full of missing clips. "": none was found."""
    return next(
        (
            row.media
            for row in table.read(0, _WITNESS_ROWS)
            if isinstance(row, Clip) and (job.root / row.media).is_file()
        ),
        "",
    )


def _build_one(job: BuildJob, number: int, rows: list[Clip | Rejected], witness: str) -> tuple[int, int]:
    """A task of Ray; returns rows done, and those of them turned away."""
    _check_node(job, witness)
    process = DecodingProcess(job.root, job.decode)
    counts: list[tuple[int, int]] = []
    try:
        build_shard(job, number, rows, process, lambda done, rejected: counts.append((done, int(rejected))))
    finally:
        process.stop()
    return sum(done for done, _ in counts), sum(rejected for _, rejected in counts)


def _check_node(job: BuildJob, witness: str) -> None:
    """Refuse to work on a node that sees other folders or has other decoders than the driver.

    Raises:
        CommandFailed: so it is.
    """
    node = socket.gethostname()
    try:
        begun_with = json.loads(read(job.out, "build.json"))["versions"]
    except FileNotFoundError:
        raise CommandFailed(
            f"the Ray node {node} does not see out={job.out} as it is here; all nodes need it under the same name"
        ) from None
    if begun_with != versions():
        raise CommandFailed(
            f"the Ray node {node} has other versions of the decoders ({versions()}) than this data set was begun with ({begun_with})"
        )
    if witness and not (job.root / witness).is_file():
        raise CommandFailed(
            f"the Ray node {node} does not see {job.root / witness}; all nodes need source.root under the same name"
        )


def _result(ray: Any, task: Any) -> tuple[int, int]:
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, (UsageError, CommandFailed, OSError)) else error from None
    except ray.exceptions.RayError as error:
        raise CommandFailed(
            f"the Ray cluster has failed: {_first_line(error)}; finished shards are kept, run the same command again"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
