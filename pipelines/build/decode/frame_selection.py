"""Selects the frames of a clip, and the packets that must be decoded to get them. Pure functions of times."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

_ROUNDING_S = 1e-6

T = TypeVar("T")


def sample_times(duration_s: float, count: int) -> np.ndarray:
    """Midpoints of `count` equal parts of a clip, in seconds from its start, float64 [count]."""
    return (np.arange(count) + 0.5) * duration_s / count


def frame_at(times_s: Sequence[float] | np.ndarray, sample_times_s: np.ndarray) -> np.ndarray:
    """The frame on screen at each sample time: the last one presented before it, or the first frame if there is none.

    Args:
        times_s: presentation time of each frame; at least one, in any order.
        sample_times_s: float64 [count].

    Returns:
        int64 [count], indices into `times_s`.
    """
    times_s = np.asarray(times_s)
    order = np.argsort(times_s, kind="stable")
    ranks = np.searchsorted(times_s[order], sample_times_s + _ROUNDING_S, side="right") - 1
    return order[np.maximum(ranks, 0)]


def nearest(times_s: Sequence[float] | np.ndarray, sample_times_s: np.ndarray) -> np.ndarray:
    """The frame nearest to each sample time, the first of equally near ones; int64 [count], indices into `times_s`."""
    return np.abs(np.asarray(times_s)[None, :] - sample_times_s[:, None]).argmin(axis=1)


def packet_ranges(times_s: Sequence[float], keys: Sequence[bool], selected: Sequence[int]) -> list[range]:
    """The smallest ranges of packets whose decoding yields all selected frames.

    A frame needs the packets from the preceding keyframe on. A frame that is presented before that keyframe but follows
    it in the file (a leading frame of an open GOP) needs the preceding GOP too.

    Args:
        times_s: presentation time of the frame of each packet, in decoding order.
        keys: whether each packet is a keyframe; the first one is.
        selected: indices of the packets of the selected frames.

    Returns:
        Ranges of packets; the decoder must be flushed between two of them.
    """
    starts = np.flatnonzero(keys)
    ranges: list[range] = []
    for index in sorted(selected):
        gop = int(np.searchsorted(starts, index, side="right")) - 1
        if times_s[index] < times_s[starts[gop]] and gop:
            gop -= 1
        start = int(starts[gop])
        if ranges and start <= ranges[-1].stop:
            ranges[-1] = range(ranges[-1].start, index + 1)
        else:
            ranges.append(range(start, index + 1))
    return ranges


def select_frames(
    frames: Iterable[tuple[float, T]], times_s: Sequence[float], by_nearness: bool
) -> Iterator[tuple[float, T]]:
    """Select one frame of a stream for each of some times, holding at most two frames in memory.

    Args:
        frames: (time in seconds, frame), in increasing time.
        times_s: increasing times.
        by_nearness: select the frame nearest to each time instead of the one on screen at it.

    Yields:
        The selected (time, frame) for each time; nothing for an empty stream.
    """
    pending = list(times_s)
    previous: tuple[float, T] | None = None
    for current in frames:
        while pending and current[0] > pending[0] + _ROUNDING_S:
            time_s = pending.pop(0)
            if previous is None or (by_nearness and time_s - previous[0] > current[0] - time_s):
                yield current
            else:
                yield previous
        previous = current
        if not pending:
            return
    if previous is not None:
        for _ in pending:
            yield previous
