"""Statistics over runs that differ in their seed: mean, its 95 % interval, and paired comparison of two variants."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Variant -> seed -> value by metric key.
SeedMetrics = Mapping[str, Mapping[int, Mapping[str, float]]]

CONFIDENCE = 0.95
MISSING = "–"


class Estimate(NamedTuple):
    """A mean and half the width of its 95 % interval (Student's t), which is NaN for a single value."""

    mean: float
    half_width: float


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of at least one value, each of another seed."""
    from scipy.stats import t

    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Estimate(mean, math.nan)
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, count - 1))
    return Estimate(mean, quantile * statistics.stdev(values) / math.sqrt(count))


def significantly_different(values: Mapping[int, float], others: Mapping[int, float]) -> bool:
    """Whether the 95 % interval of the mean difference over common seeds excludes 0; False with fewer than two."""
    seeds = values.keys() & others.keys()
    if len(seeds) < 2:
        return False
    mean, half_width = estimate([values[seed] - others[seed] for seed in sorted(seeds)])
    return abs(mean) > half_width


def format_table(metrics: SeedMetrics, keys: Sequence[str]) -> str:
    """A Markdown table of variants (rows) and keys (columns); bold: significantly different from the first variant."""
    rows = {name: seeds for name, seeds in metrics.items() if seeds}
    reference = next(iter(rows.values()))
    lines = [
        f"| | seeds | {' | '.join(map(_heading, keys))} |",
        "| --- | ---: |" + " ---: |" * len(keys),
    ]
    for name, seeds in rows.items():
        cells = []
        for key in keys:
            values, others = _column(seeds, key), _column(reference, key)
            cells.append(_cell(values, seeds is not reference and significantly_different(values, others)))
        lines.append(f"| {name} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _column(seeds: Mapping[int, Mapping[str, float]], key: str) -> dict[int, float]:
    return {seed: values[key] for seed, values in seeds.items() if key in values}


def _heading(key: str) -> str:
    task, variant, metric = key.split("/")
    return f"{task} {metric}" if variant in ("basic", "heads") else f"{task} {variant} {metric}"


def _cell(values: Mapping[int, float], bold: bool) -> str:
    if not values:
        return MISSING
    mean, half_width = estimate(list(values.values()))
    text = f"{mean:.3f}" if math.isnan(half_width) else f"{mean:.3f} ± {half_width:.3f}"
    return f"**{text}**" if bold else text
