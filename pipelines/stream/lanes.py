"""Integer weights, by which positions are divided among sources, and the number of lanes that divides shards evenly."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from configs.errors import UsageError

MAX_PERIOD = 10_000


class OrderSource(NamedTuple):
    """What the sampler needs to know of a source.

    Attributes:
        name: for error messages.
        fingerprint: of its data set.
        weight: its fraction of the positions, relative to the other sources.
        shard_clips: number of clips in each shard.
    """

    name: str
    fingerprint: str
    weight: float
    shard_clips: tuple[int, ...]


def even_lanes(shard_clips: Sequence[Sequence[int]], max_lanes: int) -> int:
    """The largest power of two of lanes that divides the shards of every source evenly.

    Evenly: the lane with most clips has at most a quarter more than the one with fewest, because clips of a short lane
        repeat sooner.

    Args:
        shard_clips: for each source, the number of clips in each shard.
        max_lanes: upper bound.
    """
    lanes = 1 << (min(max_lanes, *map(len, shard_clips)).bit_length() - 1)
    while any(
        max(clips) > 1.25 * min(clips)
        for clips in ([sum(shards[lane::lanes]) for lane in range(lanes)] for shards in shard_clips)
    ):
        lanes //= 2
    return lanes


def integer_weights(sources: Sequence[OrderSource]) -> tuple[int, ...]:
    """The weights of the sources as the smallest integers in the same proportion.

    Raises:
        UsageError: a weight is not positive, or the weights have no small common denominator.
    """
    for source in sources:
        if not (math.isfinite(source.weight) and source.weight > 0):
            raise UsageError(
                f"source {source.name}: weight={source.weight} must be above 0; remove the source to leave it out"
            )
    fractions = [Fraction(source.weight).limit_denominator(1000) for source in sources]
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    scaled = [int(fraction * scale) for fraction in fractions]
    weights = tuple(weight // math.gcd(*scaled) for weight in scaled)
    if not all(weights) or sum(weights) > MAX_PERIOD:
        given = ", ".join(f"{source.name} {source.weight}" for source in sources)
        raise UsageError(
            f"weights of the sources ({given}) become {' : '.join(map(str, weights))} as integers: "
            f"use round ones, whose sum is at most {MAX_PERIOD}"
        )
    return weights
