"""What an evaluation found, as plain data: made by `eval.run`, written to metrics.json, drawn by `eval.report`. It knows no model and no file format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from eval.benchmarks.benchmark import BenchmarkInfo


@dataclass(frozen=True)
class Requirement:
    """One line the configuration demands: `wanted` in words (`>= 0.50`, `>= shuffled_prompts/... + 0.15`), beside what was measured."""

    metric: str
    wanted: str
    value: float
    passed: bool


@dataclass(frozen=True)
class Example:
    """One prompted picture of a benchmark, or one pair of a gallery.

    image: uint8 [H_px, W_px, 3]. heatmap: float32 [H_px, W_px], 0 to 1 over the whole set. heads: float32 [K, H_px, W_px], 0 to 1 over
    the whole set, before the maximum over heads. target: bool [H_px, W_px], True where the prompted class is. prompt: its name in words.
    average_precision: of this picture alone. waveform: float32 [S] in -1 to 1 at `sample_rate_hz`. place: of a pair, which has no target: that of its
    picture among all pictures, for its sound; 1 is best.
    """

    task: str
    prompt: str
    image: np.ndarray
    heatmap: np.ndarray
    heads: np.ndarray
    target: np.ndarray
    average_precision: float
    waveform: np.ndarray
    sample_rate_hz: int
    place: int | None = None

    @property
    def value(self) -> str:
        """How good it is, in words."""
        return f"AP {self.average_precision:.2f}" if self.place is None else f"place {self.place}"


class BenchmarkResult(NamedTuple):
    """What one benchmark found: values by `variant/metric`, the same by chance, counts of items, values of each class, pictures, and the 95 % interval
    of those values that have one, (low, high)."""

    metrics: dict[str, float]
    chance: Mapping[str, float]
    items: Mapping[str, int]
    per_class: Mapping[str, dict[str, float]] = MappingProxyType({})
    examples: Sequence[Example] = ()
    intervals: Mapping[str, tuple[float, float]] = MappingProxyType({})


@dataclass(frozen=True)
class Results:
    """All of one evaluation.

    metrics: value by key `task/variant/metric`, with a prefix for baselines. items: how many were used and left out, by `task/what`.
    per_class: task -> class name -> {"ap", "iou", "items"}. about: command, config, commit, versions, date.
    intervals: 95 %, (low, high), by key, of those metrics of the model that have one.
    benchmarks: what a report says about each benchmark, by name; not stored.
    """

    metrics: dict[str, float]
    items: dict[str, int]
    requirements: list[Requirement]
    per_class: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    benchmarks: Mapping[str, BenchmarkInfo] = field(default_factory=dict)
