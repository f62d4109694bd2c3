"""What a report shows, in either format: computed from the results alone."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eval.benchmarks.registry import benchmark_info
from eval.report.published_results import SOURCES, Published, published_results
from eval.results import PREFIXES, BenchmarkInfo, Example, Results, is_model_metric

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
# Explanation of each baseline, in the order of the legend.
LEGEND = {
    "shuffled_prompts": "the model with the prompt of another image (a map that ignores the prompt scores the same)",
    "untrained": "the same architecture with random weights",
    "global_pooling": "the model with features averaged before they are compared",
    "center_prior": "a bump in the middle of every image",
    "object_prior": "ImageNet features, which do not depend on the audio",
    "ogl": "0.4 of the model's map plus 0.6 of the object prior (EZ-VSL)",
    "chance": "chance level",
}
_HEADLINE_BASELINES = ("shuffled_prompts", "untrained", "chance")
_WITHOUT_LEARNING = (*_HEADLINE_BASELINES, "center_prior")
_MAIN_METRICS = ("/recall_at_10", "/map", "/pred_dis", "/miou")
_LEFT_OUT = "left_out_"


class Row(NamedTuple):
    """A metric of the model.

    Attributes:
        key: `task/variant/metric`.
        name: for readers.
        interval: 95 %, (low, high).
        baselines: value of each baseline by prefix.
        published: results of others.
    """

    key: str
    name: str
    value: float
    interval: tuple[float, float] | None
    baselines: Mapping[str, float]
    published: Sequence[Published]


class Section(NamedTuple):
    """A benchmark.

    Attributes:
        prefixes: of the baselines that any row has.
        used: counts of items, by what they are.
        left_out: counts of items that are in no metric, by reason.
        classes: class name -> {"ap", "iou", "items"}, best first.
        variants: explanations of variants of its metrics, by their names: `advanced`.
    """

    task: str
    about: BenchmarkInfo
    rows: Sequence[Row]
    prefixes: Sequence[str]
    used: Mapping[str, int]
    left_out: Mapping[str, int]
    classes: Mapping[str, Mapping[str, float]]
    examples: Sequence[Example]
    variants: Mapping[str, str]

    @property
    def title(self) -> str:
        """The name of the benchmark, empty if it is already the heading."""
        return self.about.name if self.about.name != self.about.question else ""

    @property
    def verdict(self) -> str:
        """A warning if no metric is better than its baselines, that is, has its whole interval above all of them."""
        measured = [row for row in self.rows if row.interval and row.baselines]
        if not measured or any(is_better(row.interval, row.baselines) for row in measured if row.interval):
            return ""
        return "No metric is better than its baselines: the intervals include or lie below them."

    @property
    def items(self) -> str:
        """Counts as a sentence: `24 items, 2 without a region. Left out: 3 no sound.`"""
        counts = dict(self.used)
        low, high = (counts.pop(f"{end} class items", 0) for end in ("min", "max"))
        used = [f"{count:,} {what}" for what, count in counts.items() if count or what == "items"]
        if high:
            used.append(f"{low:,} to {high:,} items per class" if low < high else f"{high:,} items per class")
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items() if count)
        return f"{', '.join(used)}. {f'Left out: {left_out}.' if left_out else 'Nothing left out.'}" if used else ""

    def comparability(self, published: Published) -> str:
        """Why a published result may be of other items than ours; empty if there are equally many."""
        ours = self.used.get("items", 0)
        note = (
            f"published on {published.items:,} items, ours on {ours:,}"
            if published.items
            else f"on the published data, ours on {ours:,} items"
        )
        return "; ".join(part for part in (published.note, "" if published.items == ours else note) if part)


def report_content(results: Results) -> dict[str, Any]:
    """What the templates of both formats show of one evaluation, by the names of their variables."""
    found = sections(results)
    about = "\n".join(f"{key}: {value}" for key, value in results.about.items() if key != "config")
    return {
        "date": results.about.get("date", "")[:10],  # YYYY-MM-DD; empty if unknown
        "headline": headline(results),
        "requirements": results.requirements,
        "met": sum(requirement.passed for requirement in results.requirements),
        "sections": found,
        "prefixes": PREFIXES,
        "legend": [text for prefix, text in LEGEND.items() if any(prefix in section.prefixes for section in found)],
        "sources": SOURCES,
        "has_intervals": any(row.interval for section in found for row in section.rows),
        "has_published": any(row.published for section in found for row in section.rows),
        "provenance": f"{about}\n\n{results.about.get('config', '')}",
    }


def sections(results: Results) -> list[Section]:
    """One section for each benchmark, in the order in which they ran."""
    keys = [key for key in results.metrics if is_model_metric(key)]
    names = [key.partition("/")[0] for key in (*keys, *results.items)] + [example.task for example in results.examples]
    return [_section(results, task, keys) for task in dict.fromkeys(names)]


def _section(results: Results, task: str, keys: Sequence[str]) -> Section:
    metrics = results.metrics
    rows = [
        Row(
            key=key,
            name=metric_name(key),
            value=metrics[key],
            interval=results.intervals.get(key),
            baselines={prefix: metrics[f"{prefix}/{key}"] for prefix in PREFIXES if f"{prefix}/{key}" in metrics},
            published=[result for result in published_results() if result.key == key],
        )
        for key in keys
        if key.startswith(f"{task}/")
    ]
    about = results.benchmarks.get(task) or benchmark_info(task)
    measured = {row.key.split("/")[1].rpartition("_")[2] for row in rows}
    counts = {key.partition("/")[2]: count for key, count in results.items.items() if key.startswith(f"{task}/")}
    return Section(
        task=task,
        about=about,
        rows=rows,
        prefixes=[prefix for prefix in PREFIXES if any(prefix in row.baselines for row in rows)],
        used={_words(what): count for what, count in counts.items() if not what.startswith(_LEFT_OUT)},
        left_out={_words(what[len(_LEFT_OUT) :]): n for what, n in counts.items() if what.startswith(_LEFT_OUT)},
        classes=dict(sorted(results.per_class.get(task, {}).items(), key=lambda pair: -pair[1]["ap"])),
        examples=[example for example in results.examples if example.task == task],
        variants={name: text for name, text in about.variants.items() if name in measured},
    )


def metric_name(key: str) -> str:
    """`vggss/median/ciou` -> `cIoU, median`."""
    _, variant, metric = key.split("/")
    metric = re.sub(rf"^({'|'.join(METRICS)})(?=_|$)", lambda match: METRICS[match[0]], metric)
    name = _words(metric.replace("recall_at_", "recall@").replace("_win_rate", " win rate"))
    return name if variant == "heads" else f"{name}, {_words(variant)}"


def with_rank_labels(examples: Sequence[Example]) -> list[tuple[str, Example]]:
    """Examples from best to worst, labelled `best`, `median`, `worst` or with nothing."""
    last = len(examples) - 1
    return [
        ("best" if n == 0 else "worst" if n == last else "median" if 2 * n == last else "", example)
        for n, example in enumerate(examples)
    ]


def headline(results: Results) -> str:
    """The main results in one sentence, with `no better than its baselines` where the intervals say so."""
    text = "; ".join(
        sentence.format(results.metrics[key]) + _baselines(key, results) for key, sentence in _main_results(results)
    )
    return f"{text[0].upper()}{text[1:]}." if text else "Results of the model and of its baselines."


def is_better(interval: tuple[float, float], baselines: Mapping[str, float]) -> bool:
    """Whether the whole interval lies above the baselines that have not learned to compare audio and image."""
    return all(interval[0] > baselines[prefix] for prefix in _WITHOUT_LEARNING if prefix in baselines)


def _main_results(results: Results) -> list[tuple[str, str]]:
    """Keys, and sentences with a place for the value: prompted segmentation, else localization, else two others."""
    keys = [key for key in results.metrics if is_model_metric(key)]
    titles = {key: (results.benchmarks.get(task) or benchmark_info(task)).name for key in keys if (task := _task(key))}
    prompted = [
        (f"ade20k_{prompt}/basic/map", f"{prompt}-prompted segmentation reaches mAP {{:.2f}}")
        for prompt in ("speech", "sound")
    ]
    located = [
        (key, f"on {titles[key]}, {{:.0%}} of the sources are localized at cIoU 0.5")
        for key in keys
        if key.endswith("/median/ciou")
    ]
    others = [(key, f"on {titles[key]}, {metric_name(key)} is {{:.2f}}") for key in keys if key.endswith(_MAIN_METRICS)]
    return [pair for pair in prompted if pair[0] in keys] or located[:2] or others[:2]


def _baselines(key: str, results: Results) -> str:
    values = {prefix: results.metrics[f"{prefix}/{key}"] for prefix in PREFIXES if f"{prefix}/{key}" in results.metrics}
    shown = [f"{PREFIXES[prefix]} {values[prefix]:.2f}" for prefix in _HEADLINE_BASELINES if prefix in values]
    text = f" ({', '.join(shown)})" if shown else ""
    interval = results.intervals.get(key)
    return f", no better than its baselines{text}" if interval and not is_better(interval, values) else text


def _task(key: str) -> str:
    return key.partition("/")[0]


def _words(key: str) -> str:
    return key.replace("_", " ")
