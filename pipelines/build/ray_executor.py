"""Builds shards on a Ray cluster: one task per shard, on the nodes that the cluster has and adds.

The cluster is that of RAY_ADDRESS (host:port of its head, or `auto` on one of its nodes), otherwise a cluster on this
machine for the duration of the build. Every node needs the packages of requirements-build.lock and the versions of Ray
and Python of the driver; the code of this project is sent along. Media and `out` must have the same paths on all nodes;
a node where they differ ends the build with a one-line error. A task whose node is lost is retried on another node.
Limits: the driver and the head of the cluster must stay up; if one is lost, rerun the command. Progress is reported per
shard. If the driver is killed by SIGKILL, two idle agents of a local cluster end a minute later; all other processes
end at once.
"""

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.errors import CommandFailed, UsageError
from pipelines.build.build_spec import BuildSpec, versions
from pipelines.build.decode_worker import DecodingProcess
from pipelines.build.row_table import RowTable
from pipelines.build.shards import build_shard
from pipelines.manifest import Clip, Rejected, with_existing_media
from pipelines.storage import read

_RETRIES = 10  # of a task whose node or worker was lost
_MIN_TASKS = 32  # tasks in flight; pending tasks make an autoscaler add nodes
_SENTINEL_ROWS = 1000
_OBJECT_STORE_BYTES = 128 << 20  # it holds the rows of the tasks in flight, 0.3 MB for a thousand clips
_CONNECT_TIMEOUT_S = 10


def build_on_ray(
    spec: BuildSpec, table: RowTable, numbers: Sequence[int], processes: int, on_clips: Callable[[int, int], None]
) -> None:
    """Build shards on a Ray cluster.

    Args:
        spec: the data set.
        table: its rows.
        numbers: numbers of the shards.
        processes: concurrent decoding processes in the cluster; 0 means one per core.
        on_clips: progress callback, called with (finished rows, rejected rows among them).

    Raises:
        UsageError: Ray is not installed, or RAY_ADDRESS is invalid.
        CommandFailed, OSError: a shard cannot be written, the cluster does not answer, or a task failed after all
            retries. As with Ctrl-C, all tasks are ended first; finished shards are kept.
    """
    sentinel = _sentinel_file(spec, table)
    with _cluster() as ray:
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_build_one)
        pending = iter(numbers)
        running: list[Any] = []
        while True:
            # again in each round, because nodes join and leave
            max_tasks = processes or max(_MIN_TASKS, 2 * int(ray.cluster_resources().get("CPU", 0)))
            while len(running) < max_tasks and (number := next(pending, None)) is not None:
                running.append(task.remote(spec, number, table.of_shard(number), sentinel))
            if not running:
                break
            done, running = ray.wait(running)
            for finished in done:
                on_clips(*_result(ray, finished))
    spec.out.remove_leftovers(f"{spec.split}-*")  # of nodes that were lost while writing


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    """Yield the module ray, connected to the cluster of RAY_ADDRESS, or to a new one on this machine."""
    address = os.environ.get("RAY_ADDRESS") or "local"
    only_local: dict[str, Any] = {}
    if address == "local":
        # Set before ray is imported; without a token Ray writes one to the home folder, or accepts any client.
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
    root = Path(__file__).resolve().parents[2]
    code = {"py_modules": [str(root / "configs"), str(root / "pipelines")], "excludes": ["__pycache__"]}
    try:
        ray.init(address=address, runtime_env=code, log_to_driver=False, configure_logging=False, **only_local)
    except Exception as error:  # Ray raises a bare Exception when a node times out during startup
        ray.shutdown()
        raise CommandFailed(f"Ray cannot be used (RAY_ADDRESS is {address}): {_first_line(error)}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answer(address: str) -> None:
    """Try the address for 10 s; Ray itself would try for two minutes and then end this process.

    Raises:
        UsageError: the address is invalid.
        CommandFailed: no cluster answers.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise UsageError(
            f"RAY_ADDRESS={address!r} is not HOST:PORT of the head of a cluster (the usual port is 6379), auto, "
            "or empty for a cluster on this machine"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise CommandFailed(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {error}; start its head, "
            "or unset RAY_ADDRESS for a cluster on this machine"
        ) from None


def _sentinel_file(spec: BuildSpec, table: RowTable) -> str:
    """A media file that exists here and so must exist on every node, which otherwise rejects all clips; or ""."""
    rows = table.read(0, _SENTINEL_ROWS)
    clips = (with_existing_media(row, spec.root) for row in rows if isinstance(row, Clip))
    return next((clip.media for clip in clips if (spec.root / clip.media).is_file()), "")


def _build_one(spec: BuildSpec, number: int, rows: list[Clip | Rejected], sentinel: str) -> tuple[int, int]:
    """The task of Ray: builds a shard and returns the number of its rows and of the rejected ones among them."""
    _check_node(spec, sentinel)
    process = DecodingProcess(spec.root, spec.decode)
    counts: list[tuple[int, int]] = []
    try:
        build_shard(spec, number, rows, process, lambda done, rejected: counts.append((done, int(rejected))))
    finally:
        process.stop()
    return sum(done for done, _ in counts), sum(rejected for _, rejected in counts)


def _check_node(spec: BuildSpec, sentinel: str) -> None:
    """Check that this node has the folders and the decoders of the driver.

    Raises:
        CommandFailed: it has others.
    """
    node = socket.gethostname()
    try:
        expected = json.loads(read(spec.out, "build.json"))["versions"]
    except FileNotFoundError:
        raise CommandFailed(
            f"the Ray node {node} does not have out={spec.out}; all nodes need it under the same path"
        ) from None
    if expected != versions():
        raise CommandFailed(
            f"the Ray node {node} has the decoder versions {versions()}, but this data set was begun with {expected}"
        )
    if sentinel and not (spec.root / sentinel).is_file():
        raise CommandFailed(
            f"the Ray node {node} does not have {spec.root / sentinel}; all nodes need source.root under the same path"
        )


def _result(ray: Any, task: Any) -> tuple[int, int]:
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, (UsageError, CommandFailed, OSError)) else error from None
    except ray.exceptions.RayError as error:
        raise CommandFailed(
            f"the Ray cluster failed: {_first_line(error)}; finished shards are kept, run the same command again"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
