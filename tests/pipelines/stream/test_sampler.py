"""Deterministic sampler: the order of clips is a pure function of fingerprints, seed, windows and position."""

import hashlib
import pickle
import time
from collections import Counter

import pytest

from configs.errors import UsageError
from pipelines.stream.lanes import OrderSource
from pipelines.stream.sampler import DeterministicSampler
from pipelines.stream.seeding import seeded_rng

TWO = (
    OrderSource("a", "fa", 1.0, (7, 9, 8, 10, 9, 8, 9, 7)),
    OrderSource("b", "fb", 3.0, (20, 22, 19, 21, 23, 20, 21, 20)),
)


def _order(sources=TWO, seed=0, lanes=64, shuffle_window_clips=10, batch_size=4):
    return DeterministicSampler(sources, seed, lanes, shuffle_window_clips, batch_size)


def _first_clip(source, shard):
    return sum(source.shard_clips[:shard])


def _clips_of_lane(source, lane, lanes):
    return {
        _first_clip(source, shard) + number
        for shard in range(lane, len(source.shard_clips), lanes)
        for number in range(source.shard_clips[shard])
    }


def _draws(order, source, lane, count):
    """The first clips that a lane draws from a source."""
    found, position = [], lane
    while len(found) < count:
        number, clip = order.clip(position)
        if number == source:
            found.append(clip)
        position += order.lanes
    return found


def test_every_clip_occurs_once_in_each_epoch_of_its_lane_for_any_window():
    for shuffle_window_clips in (1, 3, 10, 1000):
        order = _order(shuffle_window_clips=shuffle_window_clips)
        for source, lane in [(s, lane) for s in range(2) for lane in range(order.lanes)]:
            expected = _clips_of_lane(TWO[source], lane, order.lanes)
            draws = _draws(order, source, lane, 4 * len(expected))
            epochs = [draws[start : start + len(expected)] for start in range(0, len(draws), len(expected))]
            assert all(sorted(p) == sorted(expected) for p in epochs)
            assert len({tuple(p) for p in epochs}) == 4 or shuffle_window_clips < 10


def test_epoch_reads_its_shards_in_windows():
    """8 shards of 40 clips in windows of 80: a window has clips of 2 shards, and the 4 windows have all 8."""
    source = OrderSource("a", "f", 1.0, (40,) * 8)
    draws = _draws(_order(sources=[source], lanes=1, shuffle_window_clips=80, batch_size=2), 0, 0, 640)
    windows = [draws[start : start + 80] for start in range(0, 640, 80)]
    shards = [{clip // 40 for clip in window} for window in windows]
    assert [len(s) for s in shards] == [2] * 8
    assert set.union(*shards[:4]) == set.union(*shards[4:]) == set(range(8))
    assert shards[:4] != shards[4:]
    assert all(sorted(window) != window for window in windows)


def test_each_period_of_a_lane_has_the_exact_fraction_of_every_source():
    order = _order()
    assert order.weights == (1, 3)
    arrangements = set()
    for lane in range(order.lanes):
        sources = [order.place(lane + turn * order.lanes).source for turn in range(400)]
        periods = [tuple(sources[start : start + 4]) for start in range(0, 400, 4)]
        assert all(sorted(period) == [0, 1, 1, 1] for period in periods)
        arrangements |= set(periods)
    assert len(arrangements) == 4


def test_draws_are_numbered_consecutively():
    order = _order()
    for lane in range(order.lanes):
        places = [order.place(lane + turn * order.lanes) for turn in range(100)]
        for source in range(2):
            draws = [place.draw for place in places if place.source == source]
            assert draws == list(range(len(draws)))


def test_same_settings_give_the_same_order_and_others_a_different_one():
    def clips(order):
        return [order.clip(position) for position in range(200)]

    first = clips(_order())
    assert clips(_order()) == clips(pickle.loads(pickle.dumps(_order()))) == first
    assert clips(_order(batch_size=8)) == first
    assert clips(_order(seed=1)) != first
    assert clips(_order(shuffle_window_clips=20)) != first
    assert clips(_order(lanes=2)) != first
    assert clips(_order(sources=(TWO[0], TWO[1]._replace(fingerprint="other")))) != first
    assert clips(_order(sources=(TWO[0]._replace(name="renamed"), TWO[1]))) == first


def test_ranks_partition_the_global_batch_for_any_world_size():
    order = _order(batch_size=12)
    for step in (0, 5):
        full = order.positions(step, 0, 1)
        assert full == list(range(12 * step, 12 * step + 12))
        for world_size in (2, 3, 4, 6):
            parts = [order.positions(step, rank, world_size) for rank in range(world_size)]
            assert {len(part) for part in parts} == {12 // world_size}
            assert all(p % world_size == rank for rank, part in enumerate(parts) for p in part)
            assert sorted(p for part in parts for p in part) == full


def test_each_of_four_ranks_opens_only_its_own_shards():
    order = _order(batch_size=8)
    opened = []
    for rank in range(4):
        clips = {order.clip(p) for step in range(60) for p in order.positions(step, rank, 4)}
        opened.append(
            {
                (s, shard)
                for s, c in clips
                for shard in range(len(TWO[s].shard_clips))
                if 0 <= c - _first_clip(TWO[s], shard) < TWO[s].shard_clips[shard]
            }
        )
    assert sum(len(shards) for shards in opened) == len(set.union(*opened)) == 16
    assert all(shard % 4 == rank for rank, shards in enumerate(opened) for _, shard in shards)


def test_batch_of_at_most_a_quarter_of_a_window_has_no_repeats_across_epochs():
    source = OrderSource("a", "f", 1.0, (40,))
    for shuffle_window_clips in (40, 13):
        order = _order(
            sources=[source],
            shuffle_window_clips=shuffle_window_clips,
            batch_size=40 // max(1, round(40 / shuffle_window_clips)) // 4,
        )
        for step in range(200):
            clips = [order.clip(p) for p in order.positions(step, 0, 1)]
            assert len(set(clips)) == len(clips)
            assert [order.assigned(p) for p in order.positions(step, 0, 1)] == [clip for _, clip in clips]


def test_clip_repeats_after_more_than_a_quarter_of_a_window():
    for clips, shuffle_window_clips in ((40, 40), (41, 13), (4, 100), (3, 100), (100, 9)):
        draws = _draws(
            _order(
                sources=[OrderSource("a", "f", 1.0, (clips,))], shuffle_window_clips=shuffle_window_clips, batch_size=1
            ),
            0,
            0,
            30 * clips,
        )
        smallest = clips // max(1, round(clips / shuffle_window_clips))
        last: dict[int, int] = {}
        for draw, clip in enumerate(draws):
            assert draw - last.get(clip, -clips) > smallest // 4
            last[clip] = draw


def _resolve(order, step, bad, world_size):
    """The clips of a step as the dataset chooses them, rank by rank, and how many positions were reassigned."""
    chosen, repeats = {}, 0
    for rank in range(world_size):
        for position in order.positions(step, rank, world_size):
            source, nominal = order.clip(position)
            clip, attempt = order.assigned(position), 0
            repeats += clip != nominal
            while (source, clip) in bad:
                clip = order.replacement(position, attempt)
                attempt += 1
                assert clip is not None
            chosen[position] = (source, clip)
    return [chosen[p] for p in sorted(chosen)], repeats


def test_replacements_are_unique_in_a_batch_and_the_same_for_any_number_of_ranks():
    rng = seeded_rng("bad clips")
    total_repeats = 0
    sources = [source._replace(shard_clips=tuple(3 * count for count in source.shard_clips)) for source in TWO]
    for batch_size, lanes, shuffle_window_clips, damaged in (
        (12, 4, 5, 0.2),
        (24, 4, 100, 0.1),
        (30, 2, 3, 0.1),
        (240, 4, 1000, 0.01),
    ):
        order = _order(sources, batch_size=batch_size, lanes=lanes, shuffle_window_clips=shuffle_window_clips)
        every = [(s, clip) for s in range(2) for clip in range(sum(sources[s].shard_clips))]
        bad = {every[i] for i in rng.choice(len(every), round(damaged * len(every)), replace=False)}
        for step in range(40):
            chosen, repeats = _resolve(order, step, bad, 1)
            total_repeats += repeats
            assert len(set(chosen)) == batch_size
            assert not set(chosen) & bad
            assert all(_resolve(order, step, bad, world_size)[0] == chosen for world_size in (2, 3, 6))
            for position, (source, clip) in zip(order.positions(step, 0, 1), chosen, strict=True):
                assert source == order.clip(position)[0]
                assert clip in _clips_of_lane(sources[source], position % order.lanes, order.lanes)
    assert total_repeats > 0


def test_replacement_comes_from_half_an_epoch_away():
    order = _order(sources=[OrderSource("a", "f", 1.0, (400,))], shuffle_window_clips=50, batch_size=4)
    draws = [order.clip(p)[1] for p in range(400)]
    assert [order.replacement(p, 0) for p in range(4)] == draws[200:204]
    assert [order.replacement(p, 1) for p in range(4)] == draws[204:208]


def test_batch_as_large_as_the_lane_has_no_repeats():
    order = _order(sources=[OrderSource("a", "f", 1.0, (9,))], batch_size=9)
    for step in range(30):
        assert {order.assigned(p) for p in order.positions(step, 0, 1)} == set(range(9))
    order = _order(sources=[OrderSource("a", "f", 1.0, (9,))], batch_size=6)
    repeats = 0
    for step in range(30):
        positions = order.positions(step, 0, 1)
        assert len({order.assigned(p) for p in positions}) == 6
        repeats += sum(order.assigned(p) != order.clip(p)[1] for p in positions)
    assert repeats > 5


def test_replacements_end_when_every_other_clip_of_the_lane_was_tried():
    order = _order(sources=[OrderSource("a", "f", 1.0, (7,))], batch_size=2)
    tried = [[order.replacement(p, attempt) for attempt in range(4)] for p in (0, 1)]
    assert sorted(clip for clips in tried for clip in clips if clip is not None) == sorted(
        set(range(7)) - {order.clip(0)[1], order.clip(1)[1]}
    )
    assert [clips[-1] for clips in tried] == [None, None]


def test_mix_partners_are_other_clips_of_the_same_window():
    source = OrderSource("a", "f", 1.0, (40,) * 8)
    order = _order(sources=[source], lanes=1, shuffle_window_clips=80)
    seen = Counter()
    for position in range(160):
        window = [order.clip(p)[1] for p in range(position // 80 * 80, position // 80 * 80 + 80)]
        mix_partners = order.mix_partners(position, 4)
        assert len(set(mix_partners)) == 4
        assert order.clip(position)[1] not in mix_partners
        assert set(mix_partners) <= set(window)
        assert mix_partners == _order(sources=[source], lanes=1, shuffle_window_clips=80).mix_partners(position, 4)
        seen.update(mix_partners)
    assert len(seen) > 150
    assert len(_order(sources=[OrderSource("a", "f", 1.0, (3,))], batch_size=1).mix_partners(5, 4)) == 2
    assert _order(sources=[OrderSource("a", "f", 1.0, (1,))], batch_size=1).mix_partners(5, 4) == []


def test_distant_step_is_computed_directly():
    sources = [OrderSource(name, name, 1.0, (1000,) * 2000) for name in "ab"]
    order = _order(sources=sources, shuffle_window_clips=2000, batch_size=512)
    start = time.process_time()
    clips = [order.clip(p) for p in order.positions(10**9, 0, 1)]
    assert time.process_time() - start < 1.0
    assert len(set(clips)) == 512


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _order(sources=(TWO[0]._replace(weight=0.0), TWO[1])), ["source a", "weight=0.0", "above 0"]),
        (lambda: _order(sources=(TWO[0]._replace(weight=float("nan")),)), ["source a", "weight=nan"]),
        (lambda: _order(sources=(TWO[0]._replace(weight=1e-5), TWO[1])), ["a 1e-05", "round"]),
        (
            lambda: _order(sources=[TWO[0]._replace(weight=w, name=str(w)) for w in (1 / 997, 1 / 991, 1 / 983)]),
            ["round", "10000"],
        ),
        (lambda: _order(batch_size=400), ["source a", "has 16 clips", "up to 27", "batch_size=400", "stream.lanes=4"]),
    ],
)
def test_impossible_settings_are_rejected_in_one_line(make, message):
    with pytest.raises(UsageError) as error:
        make()
    assert all(part in str(error.value) for part in message)


def test_order_is_the_same_in_every_version():
    """If this fails after an update of numpy, its random streams have changed, and resumed runs would diverge."""
    order = DeterministicSampler(
        [OrderSource("a", "fa", 1.0, (5, 4, 6)), OrderSource("b", "fb", 3.0, (3, 3, 4, 2))], 7, 2, 6, 4
    )
    found = [order.clip(position) for position in range(400)]
    assert [source for source, _ in found[:12]] == [1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1]
    assert [clip for _, clip in found[:12]] == [1, 3, 14, 0, 10, 12, 2, 11, 8, 6, 9, 4]
    # through several windows and epochs
    assert hashlib.sha256(repr(found).encode()).hexdigest()[:16] == "1d503d063ca263f4"
    distant = [order.clip(position) for position in range(10**6, 10**6 + 6)]
    assert distant == [(1, 4), (0, 14), (1, 2), (1, 3), (1, 0), (0, 13)]
    assert order.mix_partners(5, 3) == [5, 11, 10]
