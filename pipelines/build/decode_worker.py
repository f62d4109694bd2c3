"""A child process that decodes clips, because media from the wild make decoders hang, run out of memory and crash.

Limits on a clip: CPU time, counted by the kernel, which ends the process even inside an endless loop of a decoder; and
ten times that in wall time, for disks that do not answer. A clip that ends the process is retried once in a new
process, then rejected; the build continues.
"""

import contextlib
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from configs.errors import CommandFailed
from configs.schema import DecodeConfig
from pipelines.manifest import Clip, RejectedClip, StorageError, with_existing_media
from pipelines.worker_processes import forkserver_context

_WALL_PER_CPU_TIME = 10
_MODULES = ["pipelines.build.decode_worker", "pipelines.build.decode.clip", "pipelines.modalities.encode"]

T = TypeVar("T")
Task = Callable[[Clip, Path, DecodeConfig], T]


class Stopped(Exception):
    """`DecodingProcess.stop` was called while a clip was being decoded."""


class DecodingProcess:
    """One decoding process, started when first needed. One thread at a time may use it; any thread may stop it."""

    def __init__(self, root: Path, settings: DecodeConfig) -> None:
        self._root, self._settings = root, settings
        self._context = forkserver_context(_MODULES)
        self._worker: tuple[BaseProcess, Connection] | None = None
        self._stopped = False

    def encode(self, clip: Clip) -> dict[str, bytes]:
        """Decode and encode a clip.

        Returns:
            The members of the clip by extension, as `encode_clip` returns them.

        Raises:
            RejectedClip: the clip cannot be used, or has ended the process twice.
            CommandFailed: the storage does not answer.
            Stopped: `stop` was called.
        """
        try:
            return self.run(_encode, clip)
        except _WorkerDied:
            return self.run(_encode, clip)

    def stop(self) -> None:
        """End the process, without finishing its clip."""
        self._stopped = True
        worker = self._worker
        if worker:
            worker[0].kill()

    def run(self, task: Task[T], clip: Clip) -> T:
        """Call a function of a module with the clip, the root and the settings in the process, once.

        Raises:
            RejectedClip, CommandFailed, Stopped: as `encode`.
        """
        process, connection = self.start()
        wall_limit_s = self._settings.cpu_limit_s * _WALL_PER_CPU_TIME
        answer, is_late = None, False
        with contextlib.suppress(EOFError, OSError):
            connection.send((task, clip))
            is_late = not connection.poll(wall_limit_s)
            answer = None if is_late else connection.recv()
        if isinstance(answer, StorageError):
            raise CommandFailed(f"the storage failed at {answer}; finished shards are kept, run the same command again")
        if isinstance(answer, RejectedClip):
            raise answer
        if answer is not None:
            return answer
        if not is_late:  # the process ended; its exit code is available a moment after its connection closes
            process.join(1)
        process.kill()
        process.join()
        connection.close()
        self._worker = None
        exit_code = process.exitcode or 0
        if self._stopped:
            raise Stopped
        if is_late:
            raise _WorkerDied("timed_out", f"no answer within {wall_limit_s:g} s")
        if exit_code == -signal.SIGPROF:
            raise _WorkerDied("timed_out", f"more than {self._settings.cpu_limit_s:g} s of CPU time")
        raise _WorkerDied(
            "crashed", f"the process ended with {signal.Signals(-exit_code).name if exit_code < 0 else exit_code}"
        )

    def start(self) -> tuple[BaseProcess, Connection]:
        """Start the process now instead of with the first clip, unless it runs; raises Stopped after `stop`."""
        if self._stopped:
            raise Stopped
        if self._worker:
            return self._worker
        connection, remote = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(remote, self._root, self._settings), daemon=True)
        process.start()
        remote.close()
        self._worker = process, connection  # last, because another thread may call `stop`
        return self._worker


class _WorkerDied(RejectedClip):
    """The process ended while decoding the clip."""


def _serve(connection: Connection, root: Path, settings: DecodeConfig) -> None:
    """Answer each task with its result or an exception, until the other end of the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent handles it
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(EOFError, OSError):  # the parent has ended
        while True:
            task, clip = connection.recv()
            connection.send(_answer(task, clip, root, settings))


def _answer(task: Task[T], clip: Clip, root: Path, settings: DecodeConfig) -> T | RejectedClip | StorageError:
    signal.setitimer(signal.ITIMER_PROF, settings.cpu_limit_s)
    try:
        return task(with_existing_media(clip, root), root, settings)
    except (RejectedClip, StorageError) as error:
        return error
    except Exception as error:  # one of millions of clips must not end the build
        return RejectedClip("failed", f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _encode(clip: Clip, root: Path, settings: DecodeConfig) -> dict[str, bytes]:
    from pipelines.build.decode.clip import decode_clip
    from pipelines.modalities.encode import encode_clip

    return encode_clip(clip, decode_clip(clip, root, settings), settings)
