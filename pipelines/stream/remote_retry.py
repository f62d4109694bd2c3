"""Retries with exponential backoff and jitter for requests to a remote store."""

import json
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from configs.errors import CommandFailed
from pipelines.storage import Folder, RemoteFolder, read

_T = TypeVar("_T")
_MAX_PAUSE_S = 30.0
_jitter = random.SystemRandom()  # differs from node to node, and leaves the random state of the run unchanged


class Retries(NamedTuple):
    """When to give up: after `min_tries` tries and `min_s` seconds, both. Each pause is about twice the last one."""

    min_tries: int
    min_s: float
    first_pause_s: float


LONG_RETRY = Retries(4, 60.0, 0.5)  # during a run: eight tries where each fails at once
SHORT_RETRY = Retries(4, 5.0, 0.5)  # at the start of a command, and where somebody will try again: five tries


def retried(attempt: Callable[[], _T], retries: Retries, started_s: float | None = None) -> _T:
    """The result of the first attempt that does not raise CommandFailed.

    Args:
        attempt: called until it succeeds.
        retries: when to give up.
        started_s: when the caller started waiting, by time.monotonic; None: now.

    Raises:
        CommandFailed: that of the last attempt, with the number of tries.
    """
    started_s, tries = time.monotonic() if started_s is None else started_s, 0
    while True:
        tries += 1
        try:
            return attempt()
        except CommandFailed as error:
            waited_s = time.monotonic() - started_s
            if tries >= retries.min_tries and waited_s >= retries.min_s:
                raise CommandFailed(f"{tries} tries in {waited_s:.0f} s: {error}") from None
        time.sleep(min(retries.first_pause_s * 2 ** (tries - 1), _MAX_PAUSE_S) * _jitter.uniform(0.75, 1.25))


def read_json(folder: Folder, name: str, retries: Retries) -> Any:
    """The content of a JSON file; a remote one is requested again when the answer is not JSON.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a local file is not JSON.
        CommandFailed: a remote one cannot be fetched.
    """
    if not isinstance(folder, RemoteFolder):
        return json.loads(read(folder, name))

    def attempt() -> Any:
        try:
            return json.loads(folder.read(name))
        except ValueError as error:
            raise CommandFailed(f"{folder}/{name}: the answer is not JSON ({error})") from None

    return retried(attempt, retries)
