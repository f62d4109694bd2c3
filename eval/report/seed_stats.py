"""Numbers of trainings that differ in their seeds: their mean, its 95 % interval, and whether two variants differ, seed by seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Variant -> seed -> value by key.
Findings = Mapping[str, Mapping[int, Mapping[str, float]]]

# 97.5 % points of Student's t for 1, 2, ... degrees of freedom; with more, the last (it still is wide enough).
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NOTHING = "–"


class Estimate(NamedTuple):
    """A mean and half the length of its 95 % interval (Student's t); NaN for one value, of which nothing is known."""

    mean: float
    half_width: float


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of at least one value, each of another seed."""
    mean, freedom = statistics.fmean(values), len(values) - 1
    if not freedom:
        return Estimate(mean, float("nan"))
    return Estimate(mean, STUDENT_T[min(freedom, len(STUDENT_T)) - 1] * statistics.stdev(values) / len(values) ** 0.5)


def significantly_different(values: Mapping[int, float], others: Mapping[int, float]) -> bool:
    """Whether the mean difference over the seeds that both have is told from 0: its interval does not hold it."""
    seeds = values.keys() & others.keys()
    if len(seeds) < 2:
        return False
    mean, half_width = estimate([values[seed] - others[seed] for seed in seeds])
    return abs(mean) > half_width


def table(found: Findings, keys: Sequence[str]) -> str:
    """Markdown: a row for each variant that has been measured, a column for each key; bold where it differs from the first variant."""
    rows = {name: seeds for name, seeds in found.items() if seeds}
    columns = {
        key: {
            name: {seed: values[key] for seed, values in seeds.items() if key in values} for name, seeds in rows.items()
        }
        for key in keys
    }
    first = next(iter(rows))
    lines = [
        "| | seeds | " + " | ".join(_heading(key) for key in keys) + " |",
        "| --- | ---: |" + " ---: |" * len(keys),
    ]
    for name, seeds in rows.items():
        cells = (
            _cell(
                columns[key][name], name != first and significantly_different(columns[key][name], columns[key][first])
            )
            for key in keys
        )
        lines.append(f"| {name} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _heading(key: str) -> str:
    task, variant, metric = key.split("/")
    return f"{task} {metric}" if variant in ("basic", "heads") else f"{task} {variant} {metric}"


def _cell(values: Mapping[int, float], stands_out: bool) -> str:
    if not values:
        return NOTHING
    mean, half_width = estimate(list(values.values()))
    said = f"{mean:.3f}" if half_width != half_width else f"{mean:.3f} ± {half_width:.3f}"
    return f"**{said}**" if stands_out else said
