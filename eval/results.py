"""The results of an evaluation, and metrics.json, the file that holds them.

Metric keys are `task/variant/metric`, values 0 to 1.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from configs.atomic_write import atomic_open
from configs.errors import UsageError

METRICS_FILE = "metrics.json"
TRACKER_PREFIX = "eval/"  # of metrics in the history of a run and in experiment trackers
# Prefixes of keys in metrics.json, and their names in reports.
PREFIXES = {
    "bilinear": "bilinear",
    "shuffled_prompts": "shuffled prompts",
    "untrained": "untrained",
    "global_pooling": "global pooling",
    "center_prior": "center prior",
    "object_prior": "object prior",
    "ogl": "object-guided",
    "chance": "chance",
}


def is_model_metric(key: str) -> bool:
    """Whether a key of metrics.json is a metric of the model, not of a baseline."""
    return key.partition("/")[0] not in PREFIXES


@dataclass(frozen=True)
class Requirement:
    """A requirement of the configuration and its outcome.

    Attributes:
        metric: key.
        condition: `>= 0.50`, `>= shuffled_prompts/... + 0.15`.
        value: NaN if a metric it needs was not measured.
    """

    metric: str
    condition: str
    value: float
    passed: bool


@dataclass(frozen=True)
class Example:
    """One prompted image of a benchmark, or one pair of a gallery.

    Attributes:
        task: name of the benchmark.
        prompt: what the prompt names, in words.
        image: uint8 [H_px, W_px, 3].
        heatmap: float32 [H_px, W_px], 0 to 1 over the whole set.
        heads: float32 [K, H_px, W_px], 0 to 1 over the whole set, before the maximum over heads.
        target: bool [H_px, W_px], True where the prompted class is.
        average_precision: of this image alone.
        waveform: float32 [S], -1 to 1; empty where only its log-mel is stored.
        sample_rate_hz: of the waveform.
        rank: of a pair, which has no target: the rank of its image among all images for its audio, 1 is best.
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
    rank: int | None = None

    @property
    def value(self) -> str:
        """The example's own metric, as text."""
        return f"AP {self.average_precision:.2f}" if self.rank is None else f"rank {self.rank}"


class BenchmarkInfo(NamedTuple):
    """What a report says about a benchmark.

    Attributes:
        question: the question it answers, a heading.
        name: of the benchmark, in words.
        terms: license terms of the published data as its authors state them, or as we believe them to be; empty: the
            user's own data. They are not legal advice: whoever uses the data has to read its terms.
        variants: what variants of its metrics measure, by the last part of their names (`advanced` for
            `audio_to_image_advanced`); only those that need an explanation.
    """

    question: str
    name: str
    terms: str = ""
    variants: Mapping[str, str] = MappingProxyType({})


class BenchmarkResult(NamedTuple):
    """The result of one benchmark.

    Attributes:
        metrics: values by `variant/metric`.
        chance: values at chance level, by the same keys.
        items: counts of items used and left out.
        per_class: class name -> {"ap", "iou", "items"}.
        examples: for the report.
        intervals: 95 % interval (low, high) of those metrics that have one.
    """

    metrics: dict[str, float]
    chance: Mapping[str, float]
    items: Mapping[str, int]
    per_class: Mapping[str, dict[str, float]] = MappingProxyType({})
    examples: Sequence[Example] = ()
    intervals: Mapping[str, tuple[float, float]] = MappingProxyType({})


@dataclass(frozen=True)
class Results:
    """The results of all benchmarks of one evaluation.

    Attributes:
        metrics: values by `task/variant/metric`, with the name of the baseline in front for baselines.
        items: counts of items used and left out, by `task/what`.
        requirements: those of the configuration.
        per_class: task -> class name -> {"ap", "iou", "items"}.
        examples: for the report; not stored.
        about: provenance: command, settings, versions, date (eval.provenance).
        intervals: 95 % interval (low, high) of those metrics of the model that have one, by key.
        benchmarks: what reports say about each benchmark, by name; not stored.
    """

    metrics: dict[str, float]
    items: dict[str, int]
    requirements: list[Requirement]
    per_class: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    benchmarks: Mapping[str, BenchmarkInfo] = field(default_factory=dict)


def write_metrics(results: Results, folder: Path) -> Path:
    """Write everything except the examples to `folder/metrics.json`, atomically, and return its path.

    Raises:
        ValueError: a metric is not finite.
    """
    content = {
        "metrics": results.metrics,
        "intervals": results.intervals,
        "items": results.items,
        "requirements": [
            dataclasses.asdict(r) | {"value": None if math.isnan(r.value) else r.value} for r in results.requirements
        ],
        "per_class": results.per_class,
        "about": results.about,
    }
    with atomic_open(folder / METRICS_FILE) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    return folder / METRICS_FILE


def read_metrics(path: Path) -> dict[str, Any]:
    """Read what `write_metrics` wrote. Files of old versions have no intervals; then these are empty.

    Args:
        path: metrics.json, or its folder.

    Raises:
        UsageError: no such file, or not a metrics file of eval.run.
    """
    try:
        path = path / METRICS_FILE if path.is_dir() else path
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give an output folder of eval.run or its {METRICS_FILE}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or "metrics" not in content:
        raise UsageError(f"{path} is not a metrics file of eval.run: key `metrics` is missing")
    checks = {
        "metrics": _is_number,
        "intervals": _is_interval,
        "items": _is_number,
        "about": lambda value: isinstance(value, str),
    }
    for part, is_valid in checks.items():
        values = content.setdefault(part, {})
        if not isinstance(values, dict):
            raise UsageError(f"{path}: `{part}` is not an object")
        for key, value in values.items():
            if not is_valid(value):
                raise UsageError(f"{path}: {part}, {key}: {str(value)[:50]!r} is not a value that eval.run writes")
    return content


def results_from_json(content: Mapping[str, Any]) -> Results:
    """The results, without examples, from the content of metrics.json.

    Raises:
        KeyError, TypeError: not the format of `write_metrics`.
    """
    requirements = [
        Requirement(**r | {"value": math.nan if r["value"] is None else r["value"]}) for r in content["requirements"]
    ]
    intervals = {key: (low, high) for key, (low, high) in content["intervals"].items()}
    return Results(content["metrics"], content["items"], requirements, about=content["about"], intervals=intervals)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
