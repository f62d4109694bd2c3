"""A process that decodes clips for us and may die of one: media from the wild make decoders hang, eat memory and crash.

Limits on a clip: processor time, counted by the kernel, which ends the process even inside a decoder's endless loop; and ten times that on the
clock, for a disk that does not answer. A clip that ends the process is tried once more in a fresh one, then turned away; the job goes on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from configs.errors import CommandFailed
from configs.schema import DecodeConfig
from pipelines.build.decode.clip import decode_clip
from pipelines.manifest import Clip, RejectedClip, StorageError
from pipelines.modalities.encode import encode_clip

_CLOCK_PER_CPU = 10
_MODULES = ["pipelines.build.decode_worker", "av", "simplejpeg", "soundfile", "PIL.Image"]


class Stopped(Exception):
    """The worker was told to stop while it had a clip."""


class DecodingProcess:
    """One decoding process, started when first needed; used by one thread at a time, stopped from any."""

    def __init__(self, root: Path, settings: DecodeConfig) -> None:
        self._root, self._settings = root, settings
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_MODULES)
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._stopped = False

    def encode(self, clip: Clip) -> dict[str, bytes]:
        """Decode and encode a clip.

        Returns:
            The clip's members by extension, as `encode_clip` gives them.

        Raises:
            RejectedClip: the clip cannot be used, or has ended the process twice.
            CommandFailed: the storage does not answer.
            Stopped: `stop` was called.
        """
        try:
            return self._try(clip)
        except _WorkerDied:
            return self._try(clip)

    def warm_up(self) -> None:
        """Start the process now, not with the first clip."""
        if self._process is None:
            self._start()

    def stop(self) -> None:
        """End the process; a clip it has is given up."""
        self._stopped = True
        process = self._process
        if process:
            process.kill()

    def _try(self, clip: Clip) -> dict[str, bytes]:
        if self._stopped:
            raise Stopped
        self.warm_up()
        assert self._process is not None and self._connection is not None
        clock_limit_s = self._settings.cpu_limit_s * _CLOCK_PER_CPU
        late = False
        try:
            self._connection.send(clip)
            late = not self._connection.poll(clock_limit_s)
            answer = None if late else self._connection.recv()
        except (EOFError, OSError):
            answer = None
        if isinstance(answer, StorageError):
            raise CommandFailed(
                f"the storage has failed, at {answer}; finished shards are kept, run the same command again"
            )
        if isinstance(answer, RejectedClip):
            raise answer
        if answer is not None:
            return answer
        exit_code = self._end(late)
        if self._stopped:
            raise Stopped
        if late:
            raise _WorkerDied("timed_out", f"no answer within {clock_limit_s:g} s")
        if exit_code == -signal.SIGPROF:
            raise _WorkerDied("timed_out", f"more than {self._settings.cpu_limit_s:g} s of processor time")
        raise _WorkerDied(
            "crashed", f"the process ended with {signal.Signals(-exit_code).name if exit_code < 0 else exit_code}"
        )

    def _start(self) -> None:
        self._connection, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._root, self._settings), daemon=True)
        process.start()
        theirs.close()
        self._process = process  # only now: another thread may stop it

    def _end(self, late: bool) -> int:
        assert self._process is not None and self._connection is not None
        if not late:  # it ended by itself, and closed its connection a moment before its exit code is there
            self._process.join(1)
        self._process.kill()
        self._process.join()
        exit_code = self._process.exitcode
        assert exit_code is not None
        self._connection.close()
        self._process = self._connection = None
        return exit_code


class _WorkerDied(RejectedClip):
    """The process ended with the clip."""


def _serve(connection: Connection, root: Path, settings: DecodeConfig) -> None:
    """Answer each clip with its members or a RejectedClip, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(EOFError, OSError):  # the parent has ended or was killed
        while True:
            connection.send(_answer(connection.recv(), root, settings))


def _answer(clip: Clip, root: Path, settings: DecodeConfig) -> dict[str, bytes] | RejectedClip | StorageError:
    signal.setitimer(signal.ITIMER_PROF, settings.cpu_limit_s)
    try:
        return encode_clip(clip, decode_clip(clip, root, settings), settings)
    except (RejectedClip, StorageError) as error:
        return error
    except Exception as error:  # one clip of millions must not end the job; the ledger names the error
        return RejectedClip("failed", f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
