"""How far a number would move with other items of the same kind: bootstrap intervals, percentiles over sets drawn from the items with replacement.

Source: Efron, Bootstrap Methods: Another Look at the Jackknife, 1979. The reference reports no intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

RESAMPLES = 1000
SHARE = 0.95


class Interval(NamedTuple):
    """The middle 95 % of the resampled values."""

    low: float
    high: float


def mean_interval(values: Float[Tensor, "N"], seed: int, group: Int[Tensor, "N"] | None = None) -> Interval:
    """Interval of a mean.

    Args:
        values: one for each item; NaN ones are not counted.
        seed: of the drawing.
        group: items with the same number are drawn together (pictures of one video); None: each alone.

    Returns:
        NaN for both ends where nothing is to be counted.
    """
    values = values.double().cpu()
    counted = ~values.isnan()
    if not counted.any():
        return Interval(torch.nan, torch.nan)
    number = _numbered(group, len(values))[counted].unique(return_inverse=True)[1]
    sizes, sums = number.bincount(), number.bincount(weights=values[counted])
    draws = _draws(len(sizes), seed)
    return _middle(sums[draws].sum(dim=1) / sizes[draws].sum(dim=1))


def interval(
    statistic: Callable[[Int[Tensor, "M"]], float], items: int, seed: int, group: Int[Tensor, "N"] | None = None
) -> Interval:
    """Interval of any number that a set of items has, at the cost of computing it 1,000 times.

    Args:
        statistic: the number of the items whose rows it is given; a row may come more than once.
        items, seed, group: as in `mean_interval`.
    """
    number = _numbered(group, items)
    rows_of = number.argsort(stable=True).split(number.bincount().tolist())
    return _middle(
        torch.tensor(
            [statistic(torch.cat([rows_of[drawn] for drawn in draw])) for draw in _draws(len(rows_of), seed)],
            dtype=torch.float64,
        )
    )


def bootstrap_counts(items: int, seed: int, group: Int[Tensor, "N"] | None = None) -> Float[Tensor, "R N"]:
    """How often each item is in each of 1,000 draws, for numbers that follow from weighted counts. Args as `interval`; the same draws."""
    number = _numbered(group, items)
    groups = int(number.max()) + 1
    draws = _draws(groups, seed) + groups * torch.arange(RESAMPLES)[:, None]
    return draws.flatten().bincount(minlength=RESAMPLES * groups).view(RESAMPLES, groups)[:, number].float()


def percentile_interval(values: Float[Tensor, "R"]) -> Interval:
    """The interval of a number from its values in each draw; draws in which it has none (NaN) are not counted, and none at all gives NaN."""
    return _middle(values[~values.isnan()]) if not values.isnan().all() else Interval(torch.nan, torch.nan)


def _numbered(group: Int[Tensor, "N"] | None, items: int) -> Int[Tensor, "N"]:
    """Groups as numbers from 0 on, without gaps."""
    return torch.arange(items) if group is None else group.unique(return_inverse=True)[1].cpu()


def _draws(groups: int, seed: int) -> Int[Tensor, "R G"]:
    return torch.randint(groups, (RESAMPLES, groups), generator=torch.Generator().manual_seed(seed))


def _middle(values: Float[Tensor, "R"]) -> Interval:
    low, high = values.quantile(values.new_tensor([(1 - SHARE) / 2, (1 + SHARE) / 2])).tolist()
    return Interval(low, high)
