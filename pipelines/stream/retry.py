"""Ask a remote store again, after growing pauses, until it has given what is wanted or patience is at an end."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from configs.errors import CommandFailed
from pipelines.storage import Folder, RemoteFolder, read

_T = TypeVar("_T")
_MAX_PAUSE_S = 30.0
_jitter = random.SystemRandom()  # many nodes meet the same trouble; it leaves the random numbers of the run alone


class Retries(NamedTuple):
    """When to give up: after so many tries and so many seconds, whichever is later. Each pause is about twice the one before."""

    tries: int
    least_s: float
    first_pause_s: float


LONG_RETRY = Retries(4, 60.0, 0.5)  # in the middle of a run: eight tries where each fails at once
SHORT_RETRY = Retries(4, 5.0, 0.5)  # where somebody may be watching, or another will try again: five tries


def retried(attempt: Callable[[], _T], retries: Retries, began_s: float | None = None) -> _T:
    """What an attempt returns that did not end with CommandFailed.

    Args:
        attempt: called until it succeeds.
        retries: when to give up.
        began_s: since when the caller has been waiting, by time.monotonic; None: since now.

    Raises:
        CommandFailed: the last attempt's, with the number of tries before it.
    """
    began_s, tries = time.monotonic() if began_s is None else began_s, 0
    while True:
        tries += 1
        try:
            return attempt()
        except CommandFailed as error:
            waited_s = time.monotonic() - began_s
            if tries >= retries.tries and waited_s >= retries.least_s:
                raise CommandFailed(f"{tries} tries in {waited_s:.0f} s: {error}") from None
        time.sleep(min(retries.first_pause_s * 2 ** (tries - 1), _MAX_PAUSE_S) * _jitter.uniform(0.75, 1.25))


def read_json(folder: Folder, name: str, retries: Retries) -> Any:
    """The content of a JSON file; a remote one is asked for again when something else comes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a local file is no JSON.
        CommandFailed: a remote one does not come.
    """
    if not isinstance(folder, RemoteFolder):
        return json.loads(read(folder, name))

    def attempt() -> Any:
        try:
            return json.loads(folder.read(name))
        except ValueError as error:
            raise CommandFailed(f"{folder}/{name}: what came is no JSON ({error})") from None

    return retried(attempt, retries)
