"""Bootstrap intervals: percentiles of a metric over sets of items drawn with replacement.

Source: Efron, Bootstrap Methods: Another Look at the Jackknife, 1979. The reference reports no intervals.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

RESAMPLES = 1000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """The central 95 % of the resampled values."""

    low: float
    high: float


def mean_interval(values: Float[Tensor, "N"], seed: int, group: Int[Tensor, "N"] | None = None) -> Interval:
    """Interval of a mean.

    Args:
        values: one for each item; NaN values are ignored.
        seed: of the draws.
        group: items with the same number are drawn together (frames of one video); None: each item alone.

    Returns:
        NaN for both ends if all values are NaN.
    """
    values = values.double().cpu()
    valid = ~values.isnan()
    if not valid.any():
        return Interval(torch.nan, torch.nan)
    index = _group_index(group, len(values))[valid].unique(return_inverse=True)[1]
    sizes, sums = index.bincount(), index.bincount(weights=values[valid])
    draws = _draws(len(sizes), seed)
    return _quantiles(sums[draws].sum(dim=1) / sizes[draws].sum(dim=1))


def interval(
    statistic: Callable[[Int[Tensor, "M"]], float], items: int, seed: int, group: Int[Tensor, "N"] | None = None
) -> Interval:
    """Interval of any statistic of a set of items, which is computed 1,000 times.

    Args:
        statistic: a function of the rows of the drawn items; a row may occur more than once.
        items: number of items.
        seed, group: as in `mean_interval`.
    """
    index = _group_index(group, items)
    rows = index.argsort(stable=True).split(index.bincount().tolist())
    values = [statistic(torch.cat([rows[number] for number in draw])) for draw in _draws(len(rows), seed)]
    return _quantiles(torch.tensor(values, dtype=torch.float64))


def bootstrap_counts(items: int, seed: int, group: Int[Tensor, "N"] | None = None) -> Float[Tensor, "R N"]:
    """How often each item occurs in each of 1,000 draws, for metrics of weighted items.

    Arguments and draws are those of `interval`.
    """
    index = _group_index(group, items)
    groups = int(index.max()) + 1
    draws = _draws(groups, seed) + groups * torch.arange(RESAMPLES)[:, None]
    return draws.flatten().bincount(minlength=RESAMPLES * groups).view(RESAMPLES, groups)[:, index].float()


def percentile_interval(values: Float[Tensor, "R"]) -> Interval:
    """Interval of a metric from its value in each draw, ignoring NaN; NaN for both ends if all values are NaN."""
    return _quantiles(values[~values.isnan()]) if not values.isnan().all() else Interval(torch.nan, torch.nan)


def _group_index(group: Int[Tensor, "N"] | None, items: int) -> Int[Tensor, "N"]:
    """Groups numbered from 0 without gaps."""
    return torch.arange(items) if group is None else group.unique(return_inverse=True)[1].cpu()


def _draws(groups: int, seed: int) -> Int[Tensor, "R G"]:
    return torch.randint(groups, (RESAMPLES, groups), generator=torch.Generator().manual_seed(seed))


def _quantiles(values: Float[Tensor, "R"]) -> Interval:
    low, high = values.quantile(values.new_tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])).tolist()
    return Interval(low, high)
