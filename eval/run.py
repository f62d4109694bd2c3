"""Evaluate a model: `python -m eval.run config=configs/eval/toy.yaml checkpoint=runs/demo out=runs/demo`

Runs the benchmarks and their baselines (eval/baselines.py), writes metrics.json, report.html and report.md to OUT, and
prints a table. Exit 1 when a requirement of the settings is not met. If OUT holds the results of the same checkpoint,
settings, data, code and package versions, the table is printed from them; remove metrics.json to evaluate again.
With tracker=wandb or tracker=tensorboard, metrics and pictures are then logged (eval/tracking.py).
On several processes: `accelerate launch -m eval.run ...`; the numbers are bit-identical.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from configs.cli import run
from configs.errors import CommandFailed, UsageError
from configs.schema import EvalConfig, RequirementConfig
from eval.report.write import REPORT_FILES, VIDEO_FILE, report_folder, write_results
from eval.results import METRICS_FILE, PREFIXES, Requirement, Results, is_model_metric
from eval.tracking import log_results
from model.training.tracking import tracker_names

if TYPE_CHECKING:
    from eval.baselines import Baselines
    from eval.benchmarks.benchmark import Benchmark
    from model.denseav import DenseAV

Value = TypeVar("Value")


def main(config: EvalConfig) -> int:
    """Print the stored results if they are current; otherwise evaluate, on all processes of the launcher."""
    from eval.provenance import find_current_results, newest_step

    if config.benchmarks == ["help"]:
        from eval.benchmarks.registry import KINDS

        print(*(f"{name:<20} {kind.info.question}" for name, kind in KINDS.items()), sep="\n")
        return 0
    if not config.checkpoint:
        raise UsageError("checkpoint= is missing: give the run folder of a training")
    if not config.out:
        raise UsageError("out= is missing: give the folder of the report")
    check_settings(config)
    tracker_names(config.tracker)  # an error now if it is not installed
    # Several processes could disagree about files of which one machine sees an older state.
    if os.environ.get("WORLD_SIZE", "1") == "1" and (results := find_current_results(config, REPORT_FILES)):
        exit_code = print_results(results, Path(config.out))
        print(f"nothing to do: same checkpoint, settings, data and code; remove {METRICS_FILE} to evaluate again")
        log_results(config, results, newest_step(Path(config.checkpoint)))
        return exit_code

    from eval.distributed import init_distributed

    with init_distributed():
        return _evaluate_and_report(config)


def check_settings(config: EvalConfig) -> None:
    """Check what can be checked before a model is loaded. Raises UsageError: a video that does not exist."""
    if config.video and not Path(config.video).is_file():
        raise UsageError(f"video={config.video}: no such file")


def _evaluate_and_report(config: EvalConfig) -> int:
    """Build the benchmarks, load the model, evaluate; the first rank writes and prints."""
    from eval.baselines import Baselines
    from eval.benchmarks.registry import build_benchmarks
    from eval.distributed import rank
    from eval.provenance import describe_inputs, describe_run
    from eval.render.render import render_video
    from model.distributed import world_size
    from model.hub import from_pretrained, resolve_checkpoint, untrained
    from model.training.tracking import read_history

    out, is_first = Path(config.out), rank() == 0
    with report_folder(out) if is_first else nullcontext():
        checkpoint = resolve_checkpoint(Path(config.checkpoint))
        model = from_pretrained(checkpoint)
        benchmarks = build_benchmarks(config)
        baselines = Baselines(config, benchmarks)
        # Before the evaluation: what changes while it runs is then noticed by the next one.
        about = describe_run(world_size()) | describe_inputs(config, checkpoint) if is_first else {}
        video = out / VIDEO_FILE if config.video and is_first else None
        if video and (note := render_video(model, config.video, video).note):
            print(f"warning: {note}", file=sys.stderr)
        measure = lambda: measure_untrained(benchmarks, untrained(checkpoint, config.seed))  # noqa: E731
        results = evaluate(config, benchmarks, model, baselines, measure)
        if is_first:
            results.about.update(about)
            write_results(results, out, read_history(Path(config.checkpoint) / "history.jsonl"), video)
            exit_code = print_results(results, out)
            log_results(config, results, checkpoint)
            return exit_code
    return _exit_code(results)


def evaluate(
    config: EvalConfig,
    benchmarks: Mapping[str, Benchmark],
    model: DenseAV,
    baselines: Baselines,
    untrained: Callable[[], Mapping[str, float]],
) -> Results:
    """Run every benchmark on the model and on its baselines. Every rank must call it and gets all results.

    Args:
        baselines: those that need no second model.
        untrained: returns the metrics of the baseline `untrained`; called if config.baselines has it.

    Raises:
        CommandFailed: a metric is not finite.
    """
    from tqdm import tqdm

    from eval.distributed import rank

    results = Results({}, {}, [], benchmarks={name: benchmark.info for name, benchmark in benchmarks.items()})
    bar = tqdm(benchmarks.items(), desc="benchmarks", unit="benchmark", dynamic_ncols=True, disable=rank() > 0)
    for name, benchmark in bar:
        bar.set_postfix_str(name)
        measured = benchmark.evaluate(model)
        results.metrics.update(_prefixed(f"{name}/", measured.metrics))
        results.intervals.update(_prefixed(f"{name}/", measured.intervals))
        results.items.update(_prefixed(f"{name}/", measured.items))
        results.examples.extend(measured.examples)
        if measured.per_class:
            results.per_class[name] = dict(measured.per_class)
        results.metrics.update(baselines.measure(name, benchmark, model, measured))
    if "untrained" in config.baselines:
        results.metrics.update(untrained())
    for key, value in results.metrics.items():
        if not math.isfinite(value):
            raise CommandFailed(f"{key} is {value}: the scores of the model are not finite, or no item could be used")
    results.requirements.extend(check_requirement(required, results.metrics) for required in config.requirements)
    return results


def measure_untrained(benchmarks: Mapping[str, Benchmark], model: DenseAV) -> dict[str, float]:
    """The metrics of an untrained model, by `untrained/task/variant/metric`. Every rank must call it."""
    from tqdm import tqdm

    from eval.distributed import rank

    metrics: dict[str, float] = {}
    bar = tqdm(benchmarks.items(), desc="untrained", unit="benchmark", dynamic_ncols=True, disable=rank() > 0)
    for name, benchmark in bar:
        metrics.update(_prefixed(f"untrained/{name}/", benchmark.evaluate(model).metrics))
    return metrics


def check_requirement(required: RequirementConfig, metrics: Mapping[str, float]) -> Requirement:
    """Compare one metric with its requirement; if a metric is missing, the requirement is not met and its value NaN."""
    condition = f">= {required.min:g}"
    for key in (required.metric, required.baseline, required.ratio_to):
        if key and key not in metrics:
            return Requirement(required.metric, f"{condition}, but {key} was not measured", math.nan, False)
    value, bound = metrics[required.metric], required.min
    if required.baseline:
        bound, condition = metrics[required.baseline] + required.min, f">= {required.baseline} + {required.min:g}"
    if required.ratio_to:
        bound, condition = metrics[required.ratio_to] * required.min, f">= {required.min:g} x {required.ratio_to}"
    return Requirement(required.metric, condition, value, value >= bound)


def print_results(results: Results, out: Path) -> int:
    """Print metrics with 95 % intervals and baselines, requirements, and file names; returns the exit code."""
    keys = [key for key in results.metrics if is_model_metric(key)]
    prefixes = [prefix for prefix in PREFIXES if any(key.startswith(f"{prefix}/") for key in results.metrics)]
    width = max(map(len, keys), default=0)
    print(f"\n{'':<{width}}  {'model':>7}  {'95 %':<14}" + "".join(f"  {prefix:>17}" for prefix in prefixes))
    for key in keys:
        interval = "[{:.3f}, {:.3f}]".format(*results.intervals[key]) if key in results.intervals else ""
        values = [results.metrics.get(f"{prefix}/{key}") for prefix in prefixes]
        cells = "".join(" " * 19 if value is None else f"  {value:>17.3f}" for value in values)
        print(f"{key:<{width}}  {results.metrics[key]:>7.3f}  {interval:<14}{cells}".rstrip())
    print()
    for r in results.requirements:
        print(f"{'PASS' if r.passed else 'FAIL'}  {r.metric} = {r.value:.3f}, required {r.condition}")
    if results.requirements:
        met = sum(r.passed for r in results.requirements)
        unmeasured = sum(math.isnan(r.value) for r in results.requirements)
        note = f"; metrics of {unmeasured} were not measured" if unmeasured else ""
        print(f"{met} of {len(results.requirements)} requirements met{note}")
    html, markdown = REPORT_FILES
    print(f"metrics: {out / METRICS_FILE}\nreport:  {out / html}, {markdown}")
    return _exit_code(results)


def _exit_code(results: Results) -> int:
    return 0 if all(requirement.passed for requirement in results.requirements) else 1


def _prefixed(prefix: str, values: Mapping[str, Value]) -> dict[str, Value]:
    return {prefix + key: value for key, value in values.items()}


if __name__ == "__main__":
    sys.exit(run(EvalConfig, __doc__, main))
