"""Ends a download on Ctrl-C and SIGTERM, and a clip that takes too long. All of it works in the main thread only."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Self


class Interrupted(BaseException):
    """A signal that ends the command. Not an Exception, so that yt-dlp does not treat it as a failed clip."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class ClipTimedOut(BaseException):
    """A clip took longer than its limit. Not an Exception, so that yt-dlp kills its ffmpeg and passes it on."""


class Interrupts:
    """Turns SIGINT and SIGTERM into `Interrupted`; a context manager.

    Blocking the signals would not do for `delayed`: another thread, such as that of a progress bar, would get them.
    """

    def __init__(self) -> None:
        self._is_delayed, self._pending = False, 0

    def __enter__(self) -> Self:
        self._earlier = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the cleanup
        self._pending = number
        if not self._is_delayed:
            raise Interrupted(number)

    @contextlib.contextmanager
    def delayed(self) -> Iterator[None]:
        """Complete the block before a signal takes effect."""
        self._is_delayed = True
        try:
            yield
        finally:
            self._is_delayed = False
        if self._pending:
            raise Interrupted(self._pending)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `ClipTimedOut` in the block after this many seconds."""

    def stop(_: int, __: FrameType | None) -> None:
        raise ClipTimedOut

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
