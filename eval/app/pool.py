"""The server's side of the worker (worker.py): submits and cancels jobs, restarts the worker."""

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import CommandFailed, UsageError
from eval.app.jobs import Job, Limits
from eval.app.worker import (
    DISK_FULL,
    EXIT_DISK_FULL,
    OUT_OF_MEMORY,
    RESULT,
    Cancel,
    Finished,
    Started,
    Stop,
    Submit,
    serve,
)

_RESTARTED = "The model had to be loaded again. Try once more in a few seconds."


class JobFailed(Exception):
    """A job without a result; the text is a message for the user."""


class _Pending(NamedTuple):
    future: "Future[Finished]"
    session: str


class WorkerPool:
    """Runs jobs in the children of one worker process.

    Args:
        checkpoints: of the models that the worker loads.
        limits: of each job.
        upsamplers: that the page offers.
    """

    def __init__(self, checkpoints: Sequence[str], limits: Limits, upsamplers: Sequence[str]) -> None:
        self.checkpoints, self.limits, self.upsamplers = list(checkpoints), limits, list(upsamplers)
        self.models: list[dict[str, Any]] = []
        self._numbers = itertools.count()
        self._pending: dict[int, _Pending] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._loaded = threading.Event()
        self._connection, self._process = self._start()
        self._reader = threading.Thread(target=self._read, name="worker-messages", daemon=True)

    def _start(self) -> tuple[Connection, Any]:
        ours, theirs = multiprocessing.Pipe()
        # A fresh interpreter: the server has threads, which do not survive a fork.
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(theirs, self.checkpoints, self.upsamplers), name="denseav-worker"
        )
        process.start()
        theirs.close()
        return ours, process

    def wait_until_loaded(self) -> None:
        """Wait for the models; `models` describes them afterwards.

        Raises:
            UsageError: a checkpoint cannot be loaded.
            CommandFailed: the worker ended without a reason, for example for lack of memory.
        """
        try:
            started = self._connection.recv()
        except (EOFError, OSError):
            self.close()
            raise CommandFailed(
                f"the worker ended while it loaded checkpoint={','.join(self.checkpoints)} (not enough memory?)"
            ) from None
        if started.error:
            self.close()
            raise UsageError(started.error)
        self.models = started.models
        self._loaded.set()
        self._reader.start()

    async def run(self, job: Job, folder: Path, session: str) -> dict[str, Any]:
        """Run a job and return its result.

        Args:
            job: what to compute.
            folder: empty folder for its files.
            session: jobs of a session are canceled together.

        Raises:
            JobFailed: with a message for the user.
            asyncio.CancelledError: the caller was canceled; the job is killed.
        """
        number, future = next(self._numbers), Future[Finished]()
        with self._lock:
            if not self._loaded.is_set():
                raise JobFailed(_RESTARTED)
            self._pending[number] = _Pending(future, session)
            self._connection.send(Submit(number, job, folder, self.limits))
        try:
            finished = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._send(Cancel(number))
            raise
        return self._result(finished, folder)

    def cancel_session(self, session: str) -> None:
        """Kill all jobs of a session."""
        for number in [number for number, pending in list(self._pending.items()) if pending.session == session]:
            self._send(Cancel(number))

    def close(self) -> None:
        """Kill all jobs and end the worker."""
        self._closed = True
        self._send(Stop())
        self._process.join(timeout=5)
        if self._process.is_alive():  # it still loads the models
            self._process.kill()
            self._process.join()
        self._connection.close()

    def _send(self, message: Cancel | Stop) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._connection.send(message)

    def _result(self, finished: Finished, folder: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            result = json.loads((folder / RESULT).read_text())
        if "error" in result:
            raise JobFailed(result["error"])
        if finished.exit_code == 0 and result:
            return result
        if finished.exit_code == EXIT_DISK_FULL:
            raise JobFailed(DISK_FULL)
        if finished.timed_out or finished.exit_code == -signal.SIGXCPU:
            raise JobFailed(f"The job took longer than {self.limits.timeout_s:g} s. Try a shorter or smaller file.")
        if finished.exit_code == -signal.SIGKILL:
            raise JobFailed("The job was canceled, or the server ran out of memory.")
        if finished.exit_code == -signal.SIGABRT:  # how C++ code ends where memory is short
            raise JobFailed(OUT_OF_MEMORY.format(self.limits.memory_gb))
        raise JobFailed(f"The file made the decoder crash (exit code {finished.exit_code}). Try another file.")

    def _read(self) -> None:
        """Thread: pass on messages of the worker, and start it again if it ends."""
        while not self._closed:
            try:
                message = self._connection.recv()
            except (EOFError, OSError, TypeError):  # TypeError: closed while it was read
                if not self._closed:
                    self._restart()
                continue
            if isinstance(message, Started):
                self._loaded.set()
            elif isinstance(message, Finished) and (pending := self._pending.pop(message.number, None)):
                pending.future.set_result(message)

    def _restart(self) -> None:
        print("warning: the worker ended unexpectedly; it is started again", file=sys.stderr)
        self._loaded.clear()
        with self._lock:
            failed, self._pending = self._pending, {}
            self._connection.close()
            self._process.join()
            self._connection, self._process = self._start()
        for number, pending in failed.items():
            pending.future.set_result(Finished(number, -signal.SIGKILL, timed_out=False))
