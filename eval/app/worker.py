"""The worker process: loads the models once, then forks a child with resource limits for each job.

Uploads are decoded in the children only. A child that crashes, exceeds a limit or is killed affects one job. The worker
itself runs no parallel computation before a fork, because thread pools do not survive one.
"""

import contextlib
import errno
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import CommandFailed, raised_by_us
from eval.app.jobs import Job, Limits, load_models, run_job

RESULT = "result.json"
DISK_FULL = "The disk of the server is full. Try again later."
OUT_OF_MEMORY = "The file needs more memory than the server allows ({:g} GB)."
EXIT_DISK_FULL = 75  # of a job that could not even write its result
_MAX_OPEN_FILES = 512


class Started(NamedTuple):
    """First message of the worker: what it loaded, or why it could not."""

    models: list[dict[str, Any]]
    error: str = ""


class Submit(NamedTuple):
    """Asks the worker to run a job; its results are written into an existing folder."""

    number: int
    job: Job
    folder: Path
    limits: Limits


class Cancel(NamedTuple):
    """Asks the worker to kill a job."""

    number: int


class Stop(NamedTuple):
    """Asks the worker to kill all jobs and end."""


class Finished(NamedTuple):
    """A job ended: `exit_code` is that of multiprocessing (negative: killed by this signal)."""

    number: int
    exit_code: int
    timed_out: bool


@dataclass
class _Running:
    process: BaseProcess
    deadline: float
    timed_out: bool = field(default=False)

    def kill(self) -> None:
        """Kill the job and the processes that it started, such as ffmpeg."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()


def serve(connection: Connection, checkpoints: Sequence[str], upsamplers: Sequence[str]) -> None:
    """Run in a process of its own: load the models, then run jobs until the server closes the connection.

    Args:
        connection: receives Submit and Cancel, sends Started once and Finished for each job.
        checkpoints: of the models.
        upsamplers: that the page offers.
    """
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the server decides
    try:
        models = load_models(checkpoints, upsamplers)
    except (ValueError, CommandFailed) as error:
        if isinstance(error, ValueError) and not raised_by_us(error):
            raise
        connection.send(Started([], str(error)))
        return
    running: dict[int, _Running] = {}
    try:
        connection.send(Started([model.info for model in models]))
        while True:
            message = _next_message(connection, running)
            if isinstance(message, Stop):
                return
            if isinstance(message, Submit):
                process = multiprocessing.get_context("fork").Process(
                    target=_run_child, args=(connection, models, message)
                )
                process.start()
                running[message.number] = _Running(process, time.monotonic() + message.limits.timeout_s)
            elif isinstance(message, Cancel) and message.number in running:
                running[message.number].kill()
            for number, job in list(running.items()):
                if job.process.exitcode is None and time.monotonic() > job.deadline:
                    job.timed_out = True
                    job.kill()
                elif job.process.exitcode is not None:
                    job.kill()  # processes that the job left behind
                    del running[number]
                    connection.send(Finished(number, job.process.exitcode, job.timed_out))
    except (EOFError, OSError):
        return  # the server has ended
    finally:
        for job in running.values():
            job.kill()


def _next_message(connection: Connection, running: dict[int, _Running]) -> Submit | Cancel | Stop | None:
    """The next message of the server; None when a job ended or is over its time."""
    timeout_s = min((job.deadline - time.monotonic() for job in running.values()), default=None)
    waiting_for: list[Connection | int] = [connection, *(job.process.sentinel for job in running.values())]
    ready = wait(waiting_for, None if timeout_s is None else max(timeout_s, 0) + 0.01)
    return connection.recv() if connection in ready else None


def _run_child(connection: Connection, models: Sequence[Any], submit: Submit) -> None:
    """Run a job under its limits and write its result, or a message for the user, as RESULT into its folder."""
    connection.close()  # the worker's, so that the server notices the end of the worker
    os.setsid()
    _set_limits(submit.limits)
    os.environ["TMPDIR"] = tempfile.tempdir = str(submit.folder)
    try:
        result = run_job(models, submit.job, submit.folder, submit.limits)
    except Exception as error:
        message = _message(error, submit.limits)
        if message is None:
            traceback.print_exc(file=sys.stderr)
            message = "The server could not process the file; its log says why."
        result = {"error": message}
    try:
        temporary = submit.folder / f"{RESULT}.tmp"
        temporary.write_text(json.dumps(result))
        temporary.replace(submit.folder / RESULT)
    except OSError:
        sys.exit(EXIT_DISK_FULL)


def _message(error: Exception, limits: Limits) -> str | None:
    """The text of an error that the user can act on."""
    if isinstance(error, CommandFailed) or (isinstance(error, ValueError) and raised_by_us(error)):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    text = str(error).lower()
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        return OUT_OF_MEMORY.format(limits.memory_gb)
    return None


def _set_limits(limits: Limits) -> None:
    """Limit the memory, CPU time and files of this process; the wall-clock time is up to `serve`."""
    import torch

    threads = max(1, (os.cpu_count() or 1) // limits.jobs)
    torch.set_num_threads(threads)
    _lower(resource.RLIMIT_CPU, int(limits.timeout_s * (os.cpu_count() or 1)) + 1)
    _lower(resource.RLIMIT_FSIZE, int(limits.output_gb * 1e9))
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
    statm = Path("/proc/self/statm")
    if statm.exists() and not torch.cuda.is_available():  # CUDA maps the memory of all GPUs into the address space
        mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, mapped + int(limits.memory_gb * 1e9))


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
