"""Compare two evaluations: how much each metric changed, and whether its 95 % intervals overlap."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.load import diff_configs
from eval.results import is_model_metric, read_metrics

# Settings that differ by nature: which model, written where.
_NOT_COMPARED = ("checkpoint", "out", "requirements")


def format_comparison(a: Path, b: Path) -> str:
    """The comparison of two metrics.json, or of the folders that hold them, as text.

    Raises:
        UsageError: a file that is missing or broken.
    """
    one, other = read_metrics(a), read_metrics(b)
    lines = [_origin("A", a, one), _origin("B", b, other), ""]
    if differing := diff_configs(_settings(one), _settings(other), _NOT_COMPARED):
        lines += ["settings differ:", *(f"  {line}" for line in differing), ""]
    if items := _differing_items(one["items"], other["items"]):
        lines += [
            "!! DIFFERENT ITEMS: this alone may explain the differences below",
            *(f"!! {line}" for line in items),
            "",
        ]
    common = sorted(one["metrics"].keys() & other["metrics"].keys(), key=lambda key: (not is_model_metric(key), key))
    lines += _table(common, one, other) if common else ["no metric in common"]
    for name, content, rest in (("A", one, other), ("B", other, one)):
        if only := [key for key in content["metrics"] if key not in rest["metrics"]]:
            lines += ["", f"only in {name}:", *(f"  {key} {content['metrics'][key]:.3f}" for key in only)]
    return "\n".join(lines)


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


def _table(keys: Sequence[str], one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    width, counts = max(map(len, keys)), Counter[str]()
    lines = [f"{'':<{width}}  {'A':<22}  {'B':<22}  {'B - A':>7}  95 % intervals"]
    for key in keys:
        (a, interval_a), (b, interval_b) = (
            (content["metrics"][key], content["intervals"].get(key)) for content in (one, other)
        )
        verdict = ""
        if interval_a and interval_b:
            overlap = interval_a[0] <= interval_b[1] and interval_b[0] <= interval_a[1]
            verdict = "overlap" if overlap else "APART"
        counts[verdict] += 1
        change = "" if a == b else f"{b - a:+.3f}"
        line = f"{key:<{width}}  {_value(a, interval_a):<22}  {_value(b, interval_b):<22}  {change:>7}  {verdict}"
        lines.append(line.rstrip())
    return [
        *lines,
        "",
        f"intervals: {counts['APART']} apart, {counts['overlap']} overlap, {counts['']} metrics without",
    ]


def _value(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:.3f}" + (" [{:.3f}, {:.3f}]".format(*interval) if interval else "")
