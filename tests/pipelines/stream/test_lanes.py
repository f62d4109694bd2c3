"""Lanes that divide shards evenly, and integer weights of sources."""

from pipelines.stream.lanes import OrderSource, even_lanes, integer_weights
from pipelines.stream.sampler import DeterministicSampler

TWO = (
    OrderSource("a", "fa", 1.0, (7, 9, 8, 10, 9, 8, 9, 7)),
    OrderSource("b", "fb", 3.0, (20, 22, 19, 21, 23, 20, 21, 20)),
)


def _order(sources=TWO, lanes=64):
    return DeterministicSampler(sources, 0, lanes, 10, 4)


def test_lanes_are_a_power_of_two_that_divides_the_shards_of_every_source_evenly():
    assert _order().lanes == 4
    assert _order(lanes=3).lanes == 2
    assert _order(sources=TWO[:1], lanes=1).lanes == 1
    assert even_lanes([[50] * 100, [50] * 64], 64) == 16
    assert even_lanes([[1000] * 2000], 64) == 64
    assert even_lanes([[128] * 11 + [77]], 64) == 4
    assert even_lanes([[10] * 5], 64) == 1
    assert even_lanes([[10] * 11], 64) == 2
    assert even_lanes([[10, 10, 0, 20]], 64) == 1


def test_weights_become_the_smallest_integers():
    def weights(*values):
        return integer_weights([OrderSource(str(v), "", v, (1,)) for v in values])

    assert weights(1.0) == weights(0.3) == (1,)
    assert weights(0.5, 0.5) == (1, 1)
    assert weights(0.75, 0.25) == (3, 1)
    assert weights(1 / 3, 2 / 3) == (1, 2)
    assert weights(0.1, 0.2, 0.7) == (1, 2, 7)
