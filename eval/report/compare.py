"""Two evaluations side by side: which number changed, by how much, and whether that is more than other items would change it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.load import diff_configs
from eval.baselines import is_model_metric
from eval.metrics_file import read_metrics

# Which model it is and where it was written is said elsewhere.
_NOT_SETTINGS = ("checkpoint", "out", "requirements")


def format_comparison(a: Path, b: Path) -> str:
    """The text of a comparison of two metrics.json, or of the folders they lie in.

    Raises:
        UsageError: a file that is missing or broken.
    """
    one, other = read_metrics(a), read_metrics(b)
    lines = [*(_origin(name, place, content) for name, place, content in (("A", a, one), ("B", b, other))), ""]
    settings = diff_configs(
        *(
            {key: value for key, value in _settings(content).items() if value not in ("", [])}
            for content in (one, other)
        ),
        _NOT_SETTINGS,
    )
    if settings:
        lines += ["settings differ:", *(f"  {line}" for line in settings), ""]
    if items := _other_items(one["items"], other["items"]):
        lines += [
            "!! NOT THE SAME ITEMS: differences below may come from them alone",
            *(f"!! {line}" for line in items),
            "",
        ]
    both = sorted((key for key in one["metrics"] if key in other["metrics"]), key=lambda key: not is_model_metric(key))
    lines += _table(both, one, other) if both else ["no metric is in both"]
    for name, has, lacks in (("A", one, other), ("B", other, one)):
        if alone := [key for key in has["metrics"] if key not in lacks["metrics"]]:
            lines += ["", f"only in {name}:", *(f"  {key} {has['metrics'][key]:.3f}" for key in alone)]
    return "\n".join(lines)


def _origin(name: str, place: Path, content: Mapping[str, Any]) -> str:
    about, settings = content["about"], _settings(content)
    told = [
        settings.get("checkpoint", ""),
        about.get("date", ""),
        f"commit {about['commit'][:12]}" if "commit" in about else "",
    ]
    return f"{name}: {place}" + "".join(f", {part}" for part in told if part)


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Those the evaluation was made with; {} where the file does not tell them in YAML."""
    from omegaconf import OmegaConf

    try:
        settings = OmegaConf.to_container(OmegaConf.create(content["about"].get("config", "")), resolve=False)
    except Exception:  # PyYAML's error classes have no common base that OmegaConf keeps
        return {}
    return settings if isinstance(settings, dict) else {}


def _other_items(one: Mapping[str, int], other: Mapping[str, int]) -> list[str]:
    """Counts that differ, of benchmarks that are in both. What one version of eval.run counts and another does not is no difference, but what is left out."""
    both = {key.partition("/")[0] for key in one} & {key.partition("/")[0] for key in other}
    keys = [key for key in dict.fromkeys([*one, *other]) if key.partition("/")[0] in both]
    counted = [key for key in keys if (key in one and key in other) or "/left_out_" in key]
    return [
        f"{key}: {one.get(key, 0)} -> {other.get(key, 0)}" for key in counted if one.get(key, 0) != other.get(key, 0)
    ]


def _table(keys: list[str], one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    width, said = max(map(len, keys)), Counter()
    lines = [f"{'':<{width}}  {'A':<22}  {'B':<22}  {'B - A':>7}  95 % intervals"]
    for key in keys:
        (a, within_a), (b, within_b) = (
            (content["metrics"][key], content["intervals"].get(key)) for content in (one, other)
        )
        intervals = (
            ""
            if within_a is None or within_b is None
            else "overlap"
            if within_a[0] <= within_b[1] and within_b[0] <= within_a[1]
            else "APART"
        )
        said[intervals] += 1
        change = "" if a == b else f"{b - a:+.3f}"
        lines.append(
            f"{key:<{width}}  {_value(a, within_a):<22}  {_value(b, within_b):<22}  {change:>7}  {intervals}".rstrip()
        )
    return [*lines, "", f"intervals: {said['APART']} apart, {said['overlap']} overlap, {said['']} metrics without"]


def _value(value: float, within: list[float] | None) -> str:
    return f"{value:.3f}" + (" [{:.3f}, {:.3f}]".format(*within) if within else "")
