"""Compare two evaluations: how much each metric changed, and whether its 95 % intervals overlap."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from configs.load import diff_configs
from eval.report.templates import load_template, read_file
from eval.results import is_model_metric, read_metrics

# Settings that differ by nature: which model, written where.
_NOT_COMPARED = ("checkpoint", "out", "requirements")
Interval = Sequence[float]


class ComparedMetric(NamedTuple):
    """A metric in both evaluations.

    Attributes:
        key: `task/variant/metric`, with the name of the baseline in front for baselines.
        a, b: the values.
        interval_a, interval_b: 95 %, (low, high), if measured.
    """

    key: str
    a: float
    b: float
    interval_a: Interval | None
    interval_b: Interval | None

    @property
    def verdict(self) -> str:
        """`APART`, `overlap`, or empty where an interval is missing."""
        if not self.interval_a or not self.interval_b:
            return ""
        overlap = self.interval_a[0] <= self.interval_b[1] and self.interval_b[0] <= self.interval_a[1]
        return "overlap" if overlap else "APART"

    @property
    def change(self) -> str:
        """B - A with its sign, empty where the values are equal."""
        return "" if self.a == self.b else f"{self.b - self.a:+.3f}"


@dataclass(frozen=True)
class Comparison:
    """Two evaluations side by side.

    Attributes:
        origins: of A and B: path, checkpoint, date, commit.
        settings: those that differ, `key: A -> B`.
        items: counts of items that differ, `key: A -> B`.
        metrics: those in both, the model's first.
        only: metrics of one evaluation alone, by `A` and `B`.
    """

    origins: tuple[str, str]
    settings: Sequence[str]
    items: Sequence[str]
    metrics: Sequence[ComparedMetric]
    only: Mapping[str, Mapping[str, float]]

    @property
    def summary(self) -> str:
        """How many intervals are apart."""
        counts = Counter(metric.verdict for metric in self.metrics)
        return f"intervals: {counts['APART']} apart, {counts['overlap']} overlap, {counts['']} metrics without"


def compare(a: Path, b: Path) -> Comparison:
    """Compare two metrics.json, or the folders that hold them.

    Raises:
        UsageError: a file that is missing or broken.
    """
    one, other = read_metrics(a), read_metrics(b)
    common = sorted(one["metrics"].keys() & other["metrics"].keys(), key=lambda key: (not is_model_metric(key), key))
    return Comparison(
        origins=(_origin("A", a, one), _origin("B", b, other)),
        settings=diff_configs(_settings(one), _settings(other), _NOT_COMPARED),
        items=_differing_items(one["items"], other["items"]),
        metrics=[
            ComparedMetric(
                key, one["metrics"][key], other["metrics"][key], one["intervals"].get(key), other["intervals"].get(key)
            )
            for key in common
        ],
        only={
            name: {key: value for key, value in content["metrics"].items() if key not in rest["metrics"]}
            for name, content, rest in (("A", one, other), ("B", other, one))
        },
    )


def format_comparison(comparison: Comparison) -> str:
    """A comparison as text."""
    lines = [*comparison.origins, ""]
    if comparison.settings:
        lines += ["settings differ:", *(f"  {line}" for line in comparison.settings), ""]
    if comparison.items:
        lines += [
            "!! DIFFERENT ITEMS: this alone may explain the differences below",
            *(f"!! {line}" for line in comparison.items),
            "",
        ]
    lines += _table(comparison.metrics) if comparison.metrics else ["no metric in common"]
    lines += ["", comparison.summary] if comparison.metrics else []
    for name, metrics in comparison.only.items():
        if metrics:
            lines += ["", f"only in {name}:", *(f"  {key} {value:.3f}" for key, value in metrics.items())]
    return "\n".join(lines)


def render_comparison(comparison: Comparison) -> str:
    """A comparison as a self-contained HTML page."""
    template = load_template("compare.html.j2", autoescape=True)
    return template.render(comparison=comparison, css=read_file("report.css"), is_model_metric=is_model_metric)


def _origin(name: str, path: Path, content: Mapping[str, Any]) -> str:
    about = content["about"]
    commit = f"commit {about['commit'][:12]}" if "commit" in about else ""
    parts = (_settings(content).get("checkpoint", ""), about.get("date", ""), commit)
    return f"{name}: {path}" + "".join(f", {part}" for part in parts if part)


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the evaluation; {} if the file holds none that can be read.

    Empty values, which are the defaults of settings that an older version does not have, are left out.
    """
    from omegaconf import OmegaConf

    try:
        settings = OmegaConf.to_container(OmegaConf.create(content["about"].get("config", "")), resolve=False)
    except Exception:  # PyYAML's error classes have no common base that OmegaConf keeps
        return {}
    pairs = settings.items() if isinstance(settings, dict) else ()
    return {str(key): value for key, value in pairs if value not in ("", [])}


def _differing_items(one: Mapping[str, int], other: Mapping[str, int]) -> list[str]:
    """Counts that differ, of benchmarks in both.

    A count that only one version of eval.run makes is ignored, except of items left out.
    """
    common = {key.partition("/")[0] for key in one} & {key.partition("/")[0] for key in other}
    keys = [
        key
        for key in dict.fromkeys([*one, *other])
        if key.partition("/")[0] in common and ((key in one and key in other) or "/left_out_" in key)
    ]
    return [f"{key}: {one.get(key, 0)} -> {other.get(key, 0)}" for key in keys if one.get(key, 0) != other.get(key, 0)]


def _table(metrics: Sequence[ComparedMetric]) -> list[str]:
    width = max(len(metric.key) for metric in metrics)
    lines = [f"{'':<{width}}  {'A':<22}  {'B':<22}  {'B - A':>7}  95 % intervals"]
    for metric in metrics:
        values = _value(metric.a, metric.interval_a), _value(metric.b, metric.interval_b)
        line = f"{metric.key:<{width}}  {values[0]:<22}  {values[1]:<22}  {metric.change:>7}  {metric.verdict}"
        lines.append(line.rstrip())
    return lines


def _value(value: float, interval: Interval | None) -> str:
    return f"{value:.3f}" + (" [{:.3f}, {:.3f}]".format(*interval) if interval else "")
