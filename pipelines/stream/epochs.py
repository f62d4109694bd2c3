"""Epochs of one source in one lane: shards in a new random order each, clips shuffled inside windows of these."""

import bisect
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from pipelines.stream.lanes import OrderSource
from pipelines.stream.seeding import seeded_rng


class LaneEpochs:
    """Maps draws of one source in one lane, counted from 0 without end, to clip numbers; every clip once an epoch.

    Args:
        source: the source.
        seed: of all shuffles.
        lane, lanes: the source's shards lane, lane + lanes, lane + 2 lanes, ... are used.
        shuffle_window_clips: about how many clips are shuffled together; an epoch is divided into windows of equal
            size.

    Attributes:
        clips: number of clips in an epoch.
        shards_of_window: window number -> the lane's shards, counted from 0, that the window has clips of.
    """

    def __init__(self, source: OrderSource, seed: int, lane: int, lanes: int, shuffle_window_clips: int) -> None:
        counts = np.array(source.shard_clips)
        self._firsts, self._counts = (np.cumsum(counts) - counts)[lane::lanes], counts[lane::lanes]
        self._key = (seed, source.fingerprint, lane)
        self.clips = int(self._counts.sum())
        self._windows = max(1, round(self.clips / shuffle_window_clips))
        self._edges = [number * self.clips // self._windows for number in range(self._windows + 1)]
        self._shuffled = lru_cache(maxsize=4)(self._shuffled_window)
        self.shards_of_window = lru_cache(maxsize=8)(self._shards_of_window)

    def clip(self, draw: int) -> int:
        """The clip number of a draw."""
        window, number = self.window(draw)
        return int(window[number])

    def window(self, draw: int) -> tuple[np.ndarray, int]:
        """The shuffled clips of the window that holds a draw, and the draw's index among them."""
        epoch, offset = divmod(draw, self.clips)
        window = bisect.bisect_right(self._edges, offset) - 1
        return self._shuffled(epoch, window), offset - self._edges[window]

    def window_number(self, draw: int) -> int:
        """The number of a draw's window, counted through all epochs."""
        epoch, offset = divmod(draw, self.clips)
        return epoch * self._windows + bisect.bisect_right(self._edges, offset) - 1

    def from_half_an_epoch_away(self, draw: int) -> Iterator[int]:
        """Every clip once, in the order of the draw's epoch, from half an epoch after the draw, wrapping around."""
        start = draw - draw % self.clips
        for step in range(self.clips):
            yield self.clip(start + (draw - start + self.clips // 2 + step) % self.clips)

    def _shards_of_window(self, number: int) -> list[int]:
        epoch, window = divmod(number, self._windows)
        shards, ends = self._shards_of_epoch(epoch)
        first, last = np.searchsorted(ends, [self._edges[window], self._edges[window + 1] - 1], side="right")
        return [int(shard) for shard in shards[first : last + 1] if self._counts[shard]]

    def _shuffled_window(self, epoch: int, window: int) -> np.ndarray:
        order = self._before_repair(epoch, window)
        if epoch and not window:
            order = _separate_repeats(order, self._before_repair(epoch - 1, self._windows - 1))
        return order

    def _shards_of_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        shards = seeded_rng(*self._key, "shards", epoch).permutation(len(self._counts))
        return shards, np.cumsum(self._counts[shards])

    def _before_repair(self, epoch: int, window: int) -> np.ndarray:
        shards, ends = self._shards_of_epoch(epoch)
        numbers = np.arange(self._edges[window], self._edges[window + 1])
        at = np.searchsorted(ends, numbers, side="right")
        clips = self._firsts[shards][at] + numbers - (ends - self._counts[shards])[at]
        return seeded_rng(*self._key, "window", epoch, window).permutation(clips)


def _separate_repeats(order: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Swap clips of the last quarter of `previous` out of the first quarter of `order`, into its middle half.

    The middle half always has enough other clips: with `quarter` repeats in all, b of them in the first quarter, it
    holds at most quarter - b of them among its 2 * quarter or more. As the last quarter is unchanged, the next epoch
    depends only on this one, unrepaired.
    """
    quarter = min(len(order), len(previous)) // 4
    repeats = np.isin(order, previous[len(previous) - quarter :])
    head = np.flatnonzero(repeats[:quarter])
    middle = quarter + np.flatnonzero(~repeats[quarter : len(order) - quarter])[: len(head)]
    repaired = order.copy()
    repaired[head], repaired[middle] = order[middle], order[head]
    return repaired
