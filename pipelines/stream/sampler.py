"""Which clip is at position p: a pure function of the data sets' fingerprints, the seed and the window settings, for any number of ranks and workers.

Positions are dealt to L lanes, p mod L, and so are the shards of each source, by their number mod L. In a lane the sources alternate: of every W
positions in a row, W the sum of the whole-numbered weights, source s gets exactly w_s, in random arrangement. Each source makes passes of its own through its
shards of a lane: shards in a new random order, clips shuffled inside windows of that sequence, every clip once in each pass. The first quarter of
a pass's first window has no clip of the last quarter of the last window before it, so a clip comes back after more than a quarter of a window.

Global batch g is positions g * B to (g + 1) * B - 1; rank r of R takes those with p mod R = r: when R divides L, only shards of its own lanes.

Limits: the random numbers are numpy's Philox streams, so another numpy version may give another order.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from configs.errors import UsageError

MAX_PERIOD = 10_000


class OrderSource(NamedTuple):
    """What the order needs to know of a source: name (for error lines), fingerprint, share of the positions, clips in each shard."""

    name: str
    fingerprint: str
    weight: float
    shard_clips: tuple[int, ...]


class DrawIndex(NamedTuple):
    """A position taken apart: which source, in which lane, and the how-manieth clip this source draws in this lane."""

    source: int
    lane: int
    draw: int


def seeded_rng(*key: Any) -> np.random.Generator:
    """A random generator that is a function of its key alone; unequal keys give unrelated streams."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class DeterministicSampler:
    """The endless order of the clips of one or more sources.

    Args:
        sources: at least one.
        seed: of all random arrangements.
        lanes: most lanes; reduced as `even_lanes` says.
        shuffle_window_clips: about how many clips are shuffled together (a lane is cut into windows of equal size).
        batch_size: global. It sets no clip's position, only which clips must not meet.

    Raises:
        UsageError: a weight that is not above 0, or a lane with fewer clips than one batch takes from it.
    """

    def __init__(
        self, sources: Sequence[OrderSource], seed: int, lanes: int, shuffle_window_clips: int, batch_size: int
    ) -> None:
        self._arguments = (tuple(sources), seed, lanes, shuffle_window_clips, batch_size)
        self.sources, self.seed, self.batch_size = tuple(sources), seed, batch_size
        assert min(lanes, shuffle_window_clips, batch_size) >= 1
        self.lanes = even_lanes([source.shard_clips for source in sources], lanes)
        self.weights = integer_weights(self.sources)
        self._period = sum(self.weights)
        self._passes = [
            [_Epochs(source, seed, lane, self.lanes, shuffle_window_clips) for lane in range(self.lanes)]
            for source in self.sources
        ]
        self._check_lanes_fill_a_batch()
        self._mixture = lru_cache(maxsize=4 * self.lanes)(self._mixture_of_period)
        self._lane_of_batch = lru_cache(maxsize=2 * self.lanes)(self._lane_clips_of_batch)

    def __reduce__(self) -> tuple[Any, ...]:
        return DeterministicSampler, self._arguments

    def positions(self, step: int, rank: int, world_size: int) -> list[int]:
        """The positions of one rank in global batch number `step`, ascending."""
        first = step * self.batch_size
        return [p for p in range(first, first + self.batch_size) if p % world_size == rank]

    def place(self, position: int) -> DrawIndex:
        """Source, lane and draw of a position."""
        turn, lane = divmod(position, self.lanes)
        period, slot = divmod(turn, self._period)
        mixture = self._mixture(lane, period)
        source = mixture[slot]
        return DrawIndex(source, lane, period * self.weights[source] + mixture[:slot].count(source))

    def clip(self, position: int) -> tuple[int, int]:
        """(source number, clip number) at a position."""
        source, lane, draw = self.place(position)
        return source, self._passes[source][lane].clip(draw)

    def assigned(self, position: int) -> int:
        """The clip number to read at a position: `clip`'s, or another of the same source and lane where that one already is in the global batch.

        That happens only where a batch takes more than a quarter of a window, at the end of a pass.
        """
        source, lane, _ = self.place(position)
        return self._lane_of_batch(position // self.batch_size, lane)[source][position]

    def replacement(self, position: int, attempt: int) -> int | None:
        """The clip, of the same source and lane, that stands in for an unreadable one.

        One pass of the lane, begun half a pass away and without the clips of this global batch, is dealt to the batch's positions in turn, so that
        no two of them are ever given the same clip, nor one that is in the batch, whichever ranks hold them.

        Args:
            position: of the unreadable clip.
            attempt: 0 for the first replacement, 1 for the one after that fails too, ...

        Returns:
            A clip number; None when the lane has no other clip left.
        """
        source, lane, _ = self.place(position)
        peers = self._lane_of_batch(position // self.batch_size, lane)[source]
        wanted = attempt * len(peers) + list(peers).index(position)
        return next(islice(self._others(source, lane, peers), wanted, None), None)

    def mix_partners(self, position: int, count: int) -> list[int]:
        """Distinct other clips of the same source and window, to be mixed into the clip here; fewer where the window has fewer."""
        source, lane, draw = self.place(position)
        window, own = self._passes[source][lane].window(draw)
        drawn = seeded_rng(self.seed, "companions", position).choice(
            len(window) - 1, min(count, len(window) - 1), replace=False
        )
        return [int(window[number + (number >= own)]) for number in drawn]

    def shards_ahead(
        self, first_step: int, last_step: int, rank: int, world_size: int, windows_after: int
    ) -> list[tuple[int, int]]:
        """The shards, as (source, number in its data set), of a rank's clips and companions from one step to another and some windows on, window by window."""
        common = math.gcd(self.lanes, world_size)
        windows = []
        for lane in range(rank % common, self.lanes, common):
            before, after = (self._draws_before(step * self.batch_size, lane) for step in (first_step, last_step + 1))
            for source, (first, end) in enumerate(zip(before, after, strict=True)):
                passes = self._passes[source][lane]
                begun = passes.window_number(first)
                last = passes.window_number(max(first, end - 1)) + windows_after
                windows += [(number - begun, lane, source, number) for number in range(begun, last + 1)]
        found: dict[tuple[int, int], None] = {}
        for _, lane, source, number in sorted(windows):
            found.update(
                dict.fromkeys(
                    (source, shard * self.lanes + lane) for shard in self._passes[source][lane].shards_of_window(number)
                )
            )
        return list(found)

    def _draws_before(self, position: int, lane: int) -> list[int]:
        """How often each source has drawn in a lane before a position."""
        period, slot = divmod(max(0, -(-(position - lane) // self.lanes)), self._period)
        begun = self._mixture(lane, period)[:slot]
        return [period * weight + begun.count(source) for source, weight in enumerate(self.weights)]

    def _mixture_of_period(self, lane: int, period: int) -> list[int]:
        sources = np.repeat(np.arange(len(self.weights)), self.weights)
        return (
            sources.tolist()
            if len(self.weights) == 1
            else seeded_rng(self.seed, "mixture", lane, period).permutation(sources).tolist()
        )

    def _lane_clips_of_batch(self, step: int, lane: int) -> list[dict[int, int]]:
        """For each source, position -> assigned clip of a lane's positions in one global batch, ascending."""
        first = step * self.batch_size
        peers: list[dict[int, int]] = [{} for _ in self.sources]
        for position in range(first + (lane - first) % self.lanes, first + self.batch_size, self.lanes):
            source, clip = self.clip(position)
            peers[source][position] = clip
        return [self._without_repeats(source, lane, found) for source, found in enumerate(peers)]

    def _without_repeats(self, source: int, lane: int, peers: dict[int, int]) -> dict[int, int]:
        if len(set(peers.values())) == len(peers):
            return peers
        others, seen, resolved = self._others(source, lane, peers), set[int](), {}
        for position, clip in peers.items():
            resolved[position] = next(others) if clip in seen else clip
            seen.add(clip)
        return resolved

    def _others(self, source: int, lane: int, peers: dict[int, int]) -> Iterator[int]:
        """The lane's clips that are not among `peers`, each once, from half a pass after the first of these."""
        taken = set(peers.values())
        draw = self.place(next(iter(peers))).draw
        return (clip for clip in self._passes[source][lane].from_half_a_pass_away(draw) if clip not in taken)

    def _check_lanes_fill_a_batch(self) -> None:
        turns = math.ceil(self.batch_size / self.lanes)
        for source, weight, passes in zip(self.sources, self.weights, self._passes, strict=True):
            needed, fewest = min(turns, (turns // self._period + 2) * weight), min(p.clips for p in passes)
            if fewest < needed:
                raise UsageError(
                    f"source {source.name}: a lane of its shards has {fewest} clips and a batch takes up to {needed} different ones from it: "
                    f"batch_size={self.batch_size} must be smaller, stream.lanes={self.lanes} smaller, or the data set larger"
                )


class _Epochs:
    """The passes of one source through its shards of one lane, one after the other without end: draw number -> clip number."""

    def __init__(self, source: OrderSource, seed: int, lane: int, lanes: int, shuffle_window_clips: int) -> None:
        counts = np.array(source.shard_clips)
        self._firsts, self._counts = (np.cumsum(counts) - counts)[lane::lanes], counts[lane::lanes]
        self._key = (seed, source.fingerprint, lane)
        self.clips = int(self._counts.sum())
        windows = max(1, round(self.clips / shuffle_window_clips))
        self._edges = [number * self.clips // windows for number in range(windows + 1)]
        self._shuffled = lru_cache(maxsize=4)(self._shuffled_window)
        self.shards_of_window = lru_cache(maxsize=8)(
            self._shards_of_window
        )  # window number -> the lane's shards, counted from 0, that it has clips of

    def clip(self, draw: int) -> int:
        window, number = self.window(draw)
        return int(window[number])

    def window(self, draw: int) -> tuple[np.ndarray, int]:
        """The clips of the window that holds a draw, in their order, and the draw's number among them."""
        number_of_pass, rest = divmod(draw, self.clips)
        window = bisect.bisect_right(self._edges, rest) - 1
        return self._shuffled(number_of_pass, window), rest - self._edges[window]

    def window_number(self, draw: int) -> int:
        """The number of a draw's window, counted through all passes."""
        number_of_pass, rest = divmod(draw, self.clips)
        return number_of_pass * (len(self._edges) - 1) + bisect.bisect_right(self._edges, rest) - 1

    def _shards_of_window(self, number: int) -> list[int]:
        number_of_pass, window = divmod(number, len(self._edges) - 1)
        shards = self._shards_of_pass(number_of_pass)
        ends = np.cumsum(self._counts[shards])
        first, last = np.searchsorted(ends, [self._edges[window], self._edges[window + 1] - 1], side="right")
        return [int(shard) for shard in shards[first : last + 1] if self._counts[shard]]

    def from_half_a_pass_away(self, draw: int) -> Iterator[int]:
        """Every clip of the pass that holds a draw, once, from half a pass after it round to there."""
        start = draw - draw % self.clips
        for step in range(self.clips):
            yield self.clip(start + (draw - start + self.clips // 2 + step) % self.clips)

    def _shuffled_window(self, number_of_pass: int, window: int) -> np.ndarray:
        order = self._before_repair(number_of_pass, window)
        if number_of_pass and not window:
            last = self._before_repair(number_of_pass - 1, len(self._edges) - 2)
            order = _separate_repeats(order, last)
        return order

    def _shards_of_pass(self, number_of_pass: int) -> np.ndarray:
        return seeded_rng(*self._key, "shards", number_of_pass).permutation(len(self._counts))

    def _before_repair(self, number_of_pass: int, window: int) -> np.ndarray:
        shards = self._shards_of_pass(number_of_pass)
        ends = np.cumsum(self._counts[shards])
        numbers = np.arange(self._edges[window], self._edges[window + 1])
        at = np.searchsorted(ends, numbers, side="right")
        clips = self._firsts[shards][at] + numbers - (ends - self._counts[shards])[at]
        return seeded_rng(*self._key, "window", number_of_pass, window).permutation(clips)


def _separate_repeats(order: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Swap clips of the last quarter of `last` out of the first quarter of `order`, into its middle half; its last quarter stays as it is.

    The middle half always has enough others: with `quarter` unwanted clips in all, b of them in the first quarter, it holds at most
    quarter - b of them among its 2 * quarter or more. As the last quarter stays, the pass after this one needs to know only this pass, unrepaired.
    """
    quarter = min(len(order), len(last)) // 4
    unwanted = np.isin(order, last[len(last) - quarter :])
    head = np.flatnonzero(unwanted[:quarter])
    middle = quarter + np.flatnonzero(~unwanted[quarter : len(order) - quarter])[: len(head)]
    repaired = order.copy()
    repaired[head], repaired[middle] = order[middle], order[head]
    return repaired


def even_lanes(shard_clips: Sequence[Sequence[int]], most: int) -> int:
    """The largest power of two of lanes, at most `most`, that deals the shards of every source evenly.

    Evenly: the lane with most clips has at most a quarter more than the one with fewest, as clips of a short lane come back sooner.

    Args:
        shard_clips: for each source, the clips in each shard.
    """
    lanes = 1 << (min(most, *map(len, shard_clips)).bit_length() - 1)
    while any(
        max(clips) > 1.25 * min(clips)
        for clips in ([sum(shards[lane::lanes]) for lane in range(lanes)] for shards in shard_clips)
    ):
        lanes //= 2
    return lanes


def integer_weights(sources: Sequence[OrderSource]) -> tuple[int, ...]:
    """The weights as the smallest whole numbers in the same proportion.

    Raises:
        UsageError: a weight that is not above 0, or weights with no small common measure.
    """
    for source in sources:
        if not (math.isfinite(source.weight) and source.weight > 0):
            raise UsageError(
                f"source {source.name}: weight={source.weight} must be above 0; leave the source out instead"
            )
    fractions = [Fraction(source.weight).limit_denominator(1000) for source in sources]
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    whole = [int(fraction * scale) for fraction in fractions]
    weights = tuple(weight // math.gcd(*whole) for weight in whole)
    if not all(weights) or sum(weights) > MAX_PERIOD:
        given = ", ".join(f"{source.name} {source.weight}" for source in sources)
        raise UsageError(
            f"weights of the sources ({given}) come to {' : '.join(map(str, weights))}: use round ones, whose sum is at most {MAX_PERIOD}"
        )
    return weights
