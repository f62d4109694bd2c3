"""Which frames a clip keeps, and which packets must be decoded to get them. Pure functions of times; no media here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

_ROUNDING_S = 1e-6


def sample_times(duration_s: float, count: int) -> np.ndarray:
    """The middles of `count` equal parts of a clip, in seconds from its start, float64 [count]."""
    return (np.arange(count) + 0.5) * duration_s / count


def frame_at(times_s: Sequence[float], moments_s: np.ndarray) -> np.ndarray:
    """The picture on screen at each moment: the last that came before it, the first of all where none did.

    Args:
        times_s: when each picture comes on screen; at least one, in any order.
        moments_s: float64 [count].

    Returns:
        int64 [count], positions in `times_s`.
    """
    order = np.argsort(times_s, kind="stable")
    found = np.searchsorted(np.asarray(times_s)[order], moments_s + _ROUNDING_S, side="right") - 1
    return order[np.maximum(found, 0)]


def nearest(times_s: Sequence[float], moments_s: np.ndarray) -> np.ndarray:
    """The picture nearest to each moment, the earlier of two that are equally near; int64 [count], positions in `times_s`."""
    return np.abs(np.asarray(times_s)[None, :] - moments_s[:, None]).argmin(axis=1)


def packet_ranges(times_s: Sequence[float], keys: Sequence[bool], wanted: Sequence[int]) -> list[range]:
    """The runs of packets to decode so that every wanted picture comes out, and no packet in vain.

    A picture needs the packets from the key picture before it on. One that is shown before that key picture, although it comes after it in the file
    (a leading picture of an open group), needs the group before as well.

    Args:
        times_s: when each packet's picture is shown, in the order of decoding.
        keys: which packets hold key pictures; the first does.
        wanted: positions of the wanted packets.

    Returns:
        Positions of packets; between two runs the decoder has to be emptied.
    """
    starts = np.flatnonzero(keys)
    found: list[range] = []
    for position in sorted(wanted):
        group = int(np.searchsorted(starts, position, side="right")) - 1
        if times_s[position] < times_s[starts[group]] and group:
            group -= 1
        start = int(starts[group])
        if found and start <= found[-1].stop:
            found[-1] = range(found[-1].start, position + 1)
        else:
            found.append(range(start, position + 1))
    return found


def select_frames(
    frames: Iterable[tuple[float, Any]], times_s: Sequence[float], by_nearness: bool
) -> Iterator[tuple[float, Any]]:
    """For each of some times one frame of a stream, holding no more than two frames at once.

    Args:
        frames: (time in seconds, frame), in the order of their times.
        times_s: rising.
        by_nearness: the frame nearest to each time, not the one on screen at it.

    Yields:
        The (time, frame) taken for each time, in their order; nothing for an empty stream.
    """
    waiting = list(times_s)
    before: tuple[float, Any] | None = None
    for current in frames:
        while waiting and current[0] > waiting[0] + _ROUNDING_S:
            time_s = waiting.pop(0)
            take_before = before is not None and (not by_nearness or time_s - before[0] <= current[0] - time_s)
            yield before if take_before else current  # type: ignore[misc]
        before = current
        if not waiting:
            return
    if before is not None:
        for _ in waiting:
            yield before
