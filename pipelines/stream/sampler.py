"""Deterministic sampler: which clip is at position p of a run, for any number of ranks and workers.

It is a pure function of the fingerprints of the data sets, the seed, the window settings and p.
Positions are dealt to L lanes, p mod L, and so are the shards of each source, by their number mod L (lanes.py). In a
lane the sources alternate: of every W consecutive positions, W being the sum of the integer weights, source s gets
exactly w_s, in random arrangement. Each source has its own epochs in every lane (epochs.py): shards in a new random
order, clips shuffled inside windows of that sequence, every clip once in each epoch. The first quarter of an epoch's
first window has no clip of the last quarter of the window before it, so a clip repeats after more than a quarter of a
window.

Global batch g is positions g * B to (g + 1) * B - 1; rank r of R takes those with p mod R = r: when R divides L, only
shards of its own lanes.

Limits: another numpy version may give another order (seeding.py).
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from configs.errors import UsageError
from pipelines.stream.epochs import LaneEpochs
from pipelines.stream.lanes import OrderSource, even_lanes, integer_weights
from pipelines.stream.seeding import seeded_rng


class DrawIndex(NamedTuple):
    """A position, decomposed: its source, its lane, and the number of the source's draw in that lane, from 0."""

    source: int
    lane: int
    draw: int


class DeterministicSampler:
    """The endless order of the clips of one or more sources.

    Args:
        sources: at least one.
        seed: of all shuffles.
        lanes: maximum number of lanes; `even_lanes` reduces it.
        shuffle_window_clips: about how many clips are shuffled together; each lane is divided into windows of equal
            size.
        batch_size: global. It does not change the clip of any position, only which clips must not repeat in a batch.

    Attributes:
        lanes: number of lanes.
        weights: of the sources, as integers.

    Raises:
        UsageError: a weight is not positive, or a lane has fewer clips than one batch takes from it.
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
        self._epochs = [
            [LaneEpochs(source, seed, lane, self.lanes, shuffle_window_clips) for lane in range(self.lanes)]
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
        return source, self._epochs[source][lane].clip(draw)

    def assigned(self, position: int) -> int:
        """The clip number to read at a position: that of `clip`, or a replacement where the batch has it already.

        The replacement has the same source and lane. It happens only where a batch takes more than a quarter of a
        window, at the end of an epoch.
        """
        source, lane, _ = self.place(position)
        return self._lane_of_batch(position // self.batch_size, lane)[source][position]

    def replacement(self, position: int, attempt: int) -> int | None:
        """The clip of the same source and lane that replaces an unreadable one.

        One epoch of the lane, started half an epoch away and without the clips of this global batch, is dealt to the
        batch's positions in turn, so that no two of them ever get the same clip, nor one that is in the batch, on
        whichever ranks they are.

        Args:
            position: of the unreadable clip.
            attempt: 0 for the first replacement, 1 for the one after that fails too, ...

        Returns:
            A clip number; None when the lane has no other clip left.
        """
        source, lane, _ = self.place(position)
        peers = self._lane_of_batch(position // self.batch_size, lane)[source]
        number = attempt * len(peers) + list(peers).index(position)
        return next(islice(self._others(source, lane, peers), number, None), None)

    def mix_partners(self, position: int, count: int) -> list[int]:
        """Distinct other clips of the same source and window, to be mixed in; fewer where the window has fewer."""
        source, lane, draw = self.place(position)
        window, index = self._epochs[source][lane].window(draw)
        rng = seeded_rng(self.seed, "companions", position)
        drawn = rng.choice(len(window) - 1, min(count, len(window) - 1), replace=False)
        return [int(window[number + (number >= index)]) for number in drawn]

    def shards_ahead(
        self, first_step: int, last_step: int, rank: int, world_size: int, windows_after: int
    ) -> list[tuple[int, int]]:
        """The shards that a rank reads from `first_step` to `last_step` and in some windows after it, window by window.

        Returns:
            (source number, shard number in its data set) of each.
        """
        common = math.gcd(self.lanes, world_size)
        windows = []
        for lane in range(rank % common, self.lanes, common):
            before, after = (self._draws_before(step * self.batch_size, lane) for step in (first_step, last_step + 1))
            for source, (first, end) in enumerate(zip(before, after, strict=True)):
                epochs = self._epochs[source][lane]
                current = epochs.window_number(first)
                last = epochs.window_number(max(first, end - 1)) + windows_after
                windows += [(number - current, lane, source, number) for number in range(current, last + 1)]
        shards: dict[tuple[int, int], None] = {}
        for _, lane, source, number in sorted(windows):
            for shard in self._epochs[source][lane].shards_of_window(number):
                shards[source, shard * self.lanes + lane] = None
        return list(shards)

    def _draws_before(self, position: int, lane: int) -> list[int]:
        """Number of draws of each source in a lane before a position."""
        period, slot = divmod(max(0, -(-(position - lane) // self.lanes)), self._period)
        current = self._mixture(lane, period)[:slot]
        return [period * weight + current.count(source) for source, weight in enumerate(self.weights)]

    def _mixture_of_period(self, lane: int, period: int) -> list[int]:
        sources = np.repeat(np.arange(len(self.weights)), self.weights)
        if len(self.weights) > 1:
            sources = seeded_rng(self.seed, "mixture", lane, period).permutation(sources)
        return sources.tolist()

    def _lane_clips_of_batch(self, step: int, lane: int) -> list[dict[int, int]]:
        """For each source, position -> assigned clip of a lane's positions in one global batch, ascending."""
        first = step * self.batch_size
        peers: list[dict[int, int]] = [{} for _ in self.sources]
        for position in range(first + (lane - first) % self.lanes, first + self.batch_size, self.lanes):
            source, clip = self.clip(position)
            peers[source][position] = clip
        return [self._without_repeats(source, lane, clips) for source, clips in enumerate(peers)]

    def _without_repeats(self, source: int, lane: int, peers: dict[int, int]) -> dict[int, int]:
        if len(set(peers.values())) == len(peers):
            return peers
        others, seen, resolved = self._others(source, lane, peers), set[int](), {}
        for position, clip in peers.items():
            resolved[position] = next(others) if clip in seen else clip
            seen.add(clip)
        return resolved

    def _others(self, source: int, lane: int, peers: dict[int, int]) -> Iterator[int]:
        """The lane's clips that are not among `peers`, each once, from half an epoch after the first of these."""
        taken = set(peers.values())
        draw = self.place(next(iter(peers))).draw
        return (clip for clip in self._epochs[source][lane].from_half_an_epoch_away(draw) if clip not in taken)

    def _check_lanes_fill_a_batch(self) -> None:
        turns = math.ceil(self.batch_size / self.lanes)
        for source, weight, epochs in zip(self.sources, self.weights, self._epochs, strict=True):
            required, fewest = min(turns, (turns // self._period + 2) * weight), min(lane.clips for lane in epochs)
            if fewest < required:
                raise UsageError(
                    f"source {source.name}: a lane of its shards has {fewest} clips, but a batch takes up to "
                    f"{required} different ones from it: reduce global_batch_size={self.batch_size} or "
                    f"stream.lanes={self.lanes}, or use a larger data set"
                )
