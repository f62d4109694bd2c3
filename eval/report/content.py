"""What a report says, whatever it is written in: one section for each benchmark, made of the results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from eval.baselines import PREFIXES, is_model_metric
from eval.benchmarks.benchmark import BenchmarkInfo
from eval.report.published_results import Published, beside
from eval.results import Example, Results

METRICS = {
    "map": "mAP",
    "miou": "mIoU",
    "pred_dis": "pred-dis",
    "act_dis": "act-dis",
    "ciou": "cIoU",
    "auc": "AUC",
    "iiou": "iIoU",
    "iauc": "iAUC",
    "ap": "AP",
    "max_f1": "max-F1",
    "f_score": "F-score",
}
# What the headline tells beside a number.
_IN_HEADLINE = ("shuffled_prompts", "untrained", "chance")
_LEFT_OUT = "left_out_"


class Row(NamedTuple):
    """A metric: its key and name, the model's value and its 95 % interval, what stands beside it by prefix, and what others have published."""

    key: str
    name: str
    value: float
    interval: tuple[float, float] | None
    beside: Mapping[str, float]
    published: Sequence[Published]


class Section(NamedTuple):
    """A benchmark. `prefixes`: those that any of its rows has. `used`: what was counted; `left_out`: what is in no number, by reason."""

    task: str
    about: BenchmarkInfo
    rows: Sequence[Row]
    prefixes: Sequence[str]
    used: Mapping[str, int]
    left_out: Mapping[str, int]
    classes: Mapping[str, Mapping[str, float]]
    examples: Sequence[Example]


def sections(results: Results) -> list[Section]:
    """In the order in which they were measured."""
    own = [key for key in results.metrics if is_model_metric(key)]
    return [
        _section(results, task, own)
        for task in dict.fromkeys(
            key.partition("/")[0] for key in [*own, *results.items, *(e.task for e in results.examples)]
        )
    ]


def _section(results: Results, task: str, own: Sequence[str]) -> Section:
    from eval.benchmarks.registry import benchmark_info

    rows = []
    for key in (key for key in own if key.startswith(f"{task}/")):
        baselines = {
            prefix: results.metrics[f"{prefix}/{key}"] for prefix in PREFIXES if f"{prefix}/{key}" in results.metrics
        }
        rows.append(
            Row(key, metric_name(key), results.metrics[key], results.intervals.get(key), baselines, beside([key]))
        )
    counts = {key.partition("/")[2]: count for key, count in results.items.items() if key.startswith(f"{task}/")}
    return Section(
        task=task,
        about=results.benchmarks.get(task) or benchmark_info(task),
        rows=rows,
        prefixes=[prefix for prefix in PREFIXES if any(prefix in row.beside for row in rows)],
        used={_in_words(what): count for what, count in counts.items() if not what.startswith(_LEFT_OUT)},
        left_out={
            _in_words(what.removeprefix(_LEFT_OUT)): count
            for what, count in counts.items()
            if what.startswith(_LEFT_OUT)
        },
        classes=dict(sorted(results.per_class.get(task, {}).items(), key=lambda pair: -pair[1]["ap"])),
        examples=[example for example in results.examples if example.task == task],
    )


def metric_name(key: str) -> str:
    """`vggss/median/ciou` -> `cIoU, median`."""
    _, variant, metric = key.split("/")
    for short, name in METRICS.items():
        if metric == short or metric.startswith(f"{short}_"):
            metric = name + metric.removeprefix(short)
            break
    name = metric.replace("recall_at_", "recall@").replace("_win_rate", " win rate").replace("_", " ")
    return name if variant == "heads" else f"{name}, {_in_words(variant)}"


def item_summary(section: Section) -> str:
    """What the numbers are of, and what they are not of: `24 items, 2 without a region. Left out: 3 no sound.`"""
    used = ", ".join(f"{count:,} {what}" for what, count in section.used.items() if count or what == "items")
    left_out = ", ".join(f"{count:,} {why}" for why, count in section.left_out.items() if count)
    return f"{used}. {f'Left out: {left_out}.' if left_out else 'Nothing left out.'}" if used else ""


def difference(section: Section, published: Published) -> str:
    """Why a published figure may not be of the same items as ours; empty where they are equally many."""
    items = section.used.get("items", 0)
    other = (
        f"published on {published.items:,} items, ours on {items:,}"
        if published.items
        else f"on the published data, ours on {items:,} items"
    )
    return "; ".join(part for part in (published.note, "" if published.items == items else other) if part)


def with_rank_labels(examples: Sequence[Example]) -> list[tuple[str, Example]]:
    """Pictures from best to worst, with the place of the outer ones and of the one in the middle."""
    last = len(examples) - 1
    return [
        ("best" if n == 0 else "worst" if n == last else "median" if 2 * n == last else "", example)
        for n, example in enumerate(examples)
    ]


def headline(metrics: Mapping[str, float]) -> str:
    """What was learnt, in words, from the numbers alone."""
    from eval.benchmarks.registry import benchmark_info

    said = []
    for task, prompt in (("ade20k_speech", "Hearing a spoken word"), ("ade20k_sound", "hearing a sound")):
        key = f"{task}/basic/map"
        if key in metrics:
            said.append(
                f"{prompt}, the model points at the right thing with mAP {metrics[key]:.2f}{_beside(key, metrics)}"
            )
    if not said:
        keys = [key for key in metrics if is_model_metric(key) and key.endswith("/median/ciou")]
        said = [
            f"on {benchmark_info(key.partition('/')[0]).name}, {metrics[key]:.0%} of the sources are found, cIoU at 0.5{_beside(key, metrics)}"
            for key in keys[:2]
        ]
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if said else "What was measured, and what it was measured against."


def _beside(key: str, metrics: Mapping[str, float]) -> str:
    found = [
        f"{PREFIXES[prefix]} {metrics[f'{prefix}/{key}']:.2f}"
        for prefix in _IN_HEADLINE
        if f"{prefix}/{key}" in metrics
    ]
    return f" ({', '.join(found)})" if found else ""


def _in_words(key: str) -> str:
    return key.replace("_", " ")
