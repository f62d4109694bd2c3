"""Which shards the prefetcher requests ahead of the steps that read them."""

import numpy as np
import pytest

from pipelines.stream.lanes import OrderSource
from pipelines.stream.sampler import DeterministicSampler

TWO = (
    OrderSource("a", "fa", 1.0, (7, 9, 0, 10, 9, 8, 9, 7)),
    OrderSource("b", "fb", 3.0, (20, 22, 19, 21, 23, 20, 21, 20)),
)


def _shard_of(source, clip):
    return int(np.searchsorted(np.cumsum(source.shard_clips), clip, side="right"))


@pytest.mark.parametrize("world_size", [1, 2, 4, 3, 8])
@pytest.mark.parametrize(
    ("sources", "lanes", "shuffle_window_clips", "batch_size"),
    [
        (TWO, 4, 10, 24),
        (TWO, 2, 6, 24),
        (TWO[:1], 8, 5, 24),
        (TWO[1:], 4, 1000, 48),
        ((TWO[0]._replace(weight=0.02), TWO[1]), 2, 9, 24),
    ],
)
def test_shards_ahead_include_those_of_the_coming_steps(sources, lanes, shuffle_window_clips, batch_size, world_size):
    order = DeterministicSampler(sources, 0, lanes, shuffle_window_clips, batch_size)
    for rank in range(world_size):
        required = []
        for step in range(40):
            positions = order.positions(step, rank, world_size)
            clips = {order.clip(p) for p in positions} | {
                (order.clip(p)[0], c) for p in positions for c in order.mix_partners(p, 3)
            }
            required.append({(source, _shard_of(sources[source], clip)) for source, clip in clips})
        for first in range(34):
            ahead = order.shards_ahead(first, first + 2, rank, world_size, 0)
            assert len(set(ahead)) == len(ahead)
            assert set.union(*required[first : first + 3]) <= set(ahead)
            assert all(sources[source].shard_clips[shard] for source, shard in ahead)
            assert set(ahead) <= set(order.shards_ahead(first, first + 2, rank, world_size, 1))


def test_window_after_is_the_next_one_across_epochs():
    source = OrderSource("a", "f", 1.0, (40,) * 8)
    order = DeterministicSampler([source], 0, 1, 60, 16)  # eight shards in five windows of 64 clips
    shards = [order.clip(position)[1] // 40 for position in range(1200)]
    for step in range(60):
        first, last = 16 * step // 64, (16 * step + 31) // 64
        for after in (0, 1, 2):
            assert set(order.shards_ahead(step, step + 1, 0, 1, after)) == {
                (0, shard) for shard in shards[64 * first : 64 * (last + 1 + after)]
            }


def test_rank_prefetches_its_own_lanes_only_current_windows_first():
    source = OrderSource("a", "f", 1.0, (40,) * 32)
    order = DeterministicSampler([source], 0, 4, 80, 16)
    for rank in range(4):
        ahead = order.shards_ahead(5, 5, rank, 4, 1)
        assert all(shard % 4 == rank for _, shard in ahead) and len(ahead) == 4  # two shards in a window, two windows
        assert set(ahead[:2]) == set(order.shards_ahead(5, 5, rank, 4, 0))
