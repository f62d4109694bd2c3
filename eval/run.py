"""Measure a model: `python -m eval.run config=configs/eval/toy.yaml checkpoint=runs/demo out=runs/demo`

Runs the benchmarks, beside them the baselines (eval/baselines.py), writes metrics.json, report.html and report.md into OUT, prints a table. Exit 1 when
something that the settings require was not reached. Several processes: `accelerate launch -m eval.run ...`; the numbers are the same to the last bit.
"""

from __future__ import annotations

import math
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.cli import run
from configs.errors import CommandFailed, UsageError
from configs.load import to_yaml
from configs.schema import EvalConfig, RequirementConfig
from eval.baselines import PREFIXES, Baselines, check_baselines, is_model_metric

if TYPE_CHECKING:
    from eval.benchmarks.benchmark import Benchmark
    from eval.results import BenchmarkResult, Requirement, Results
    from model.denseav import DenseAV

PACKAGES = ("torch", "torchvision", "torchaudio", "timm", "accelerate", "numpy")


def main(config: EvalConfig) -> int:
    """Meet the other processes where there are such, then measure."""
    from eval.distributed import init_distributed

    for key in ("checkpoint", "out"):
        if not getattr(config, key):
            raise UsageError(f"{key}= is missing: give the run folder of a training")
    check_settings(config)
    with init_distributed():
        return _measure(config)


def check_settings(config: EvalConfig) -> None:
    """Meet mistakes before anything is measured. Raises UsageError: an unknown baseline, a video that is not there."""
    check_baselines(config.baselines)
    if config.video and not Path(config.video).is_file():
        raise UsageError(f"video={config.video}: no such file")


def _measure(config: EvalConfig) -> int:
    """Make the benchmarks, load the model, measure; the first rank writes and prints."""
    from eval.benchmarks.registry import build_benchmarks
    from eval.distributed import rank
    from eval.metrics_file import write_metrics
    from eval.render import render_heatmap_video
    from eval.report.write import report_folder, write_report
    from model.hub import from_pretrained, untrained
    from model.training.tracking import read_history

    out, on_first = Path(config.out), rank() == 0
    with report_folder(out) if on_first else nullcontext():
        model = from_pretrained(config.checkpoint)
        benchmarks = build_benchmarks(config)
        baselines = Baselines(config, benchmarks)
        fresh = partial(untrained, config.checkpoint, config.seed) if "untrained" in config.baselines else None
        video = (
            render_heatmap_video(model, Path(config.video), out / "heatmap.mp4") if config.video and on_first else None
        )
        results = evaluate(config, benchmarks, model, baselines, fresh)
        missed = [requirement for requirement in results.requirements if not requirement.passed]
        if on_first:
            numbers = write_metrics(results, out)
            report = write_report(results, out, read_history(Path(config.checkpoint) / "history.jsonl"), video)
            print_table(results)
            if results.requirements:
                reached = f"{len(results.requirements) - len(missed)} of {len(results.requirements)} requirements met"
                unknown = sum(math.isnan(requirement.value) for requirement in missed)
                print(
                    reached
                    + (
                        f"; {unknown} are of figures that were not measured"
                        if unknown
                        else ": it did not learn enough"
                        if missed
                        else ""
                    )
                )
            print(f"numbers: {numbers}\nreport:  {report}, {report.with_suffix('.md').name}")
    return 1 if missed else 0


def evaluate(
    config: EvalConfig,
    benchmarks: Mapping[str, Benchmark],
    model: DenseAV,
    baselines: Baselines | None,
    untrained: Callable[[], DenseAV] | None,
) -> Results:
    """Run every benchmark on the model and on its baselines; on several ranks, each of which gets all results.

    Args:
        baselines: None: only the model.
        untrained: makes the model of the baseline `untrained`; None: that one is not measured.

    Raises:
        CommandFailed: a figure that is not a number.
    """
    from tqdm import tqdm

    from eval.distributed import rank
    from eval.results import Results

    results = Results({}, {}, [], about=_about(config), benchmarks={name: b.info for name, b in benchmarks.items()})
    bar = tqdm(benchmarks.items(), desc="benchmarks", unit="benchmark", dynamic_ncols=True, disable=rank() > 0)
    for name, benchmark in bar:
        bar.set_postfix_str(name)
        measured: BenchmarkResult = benchmark.evaluate(model)
        results.metrics.update(_prefixed(f"{name}/", measured.metrics))
        results.intervals.update(_prefixed(f"{name}/", measured.intervals))
        results.items.update(_prefixed(f"{name}/", measured.items))
        results.examples.extend(measured.examples)
        if measured.per_class:
            results.per_class[name] = dict(measured.per_class)
        if baselines:
            results.metrics.update(baselines.beside(name, benchmark, model, measured))
    if untrained is not None:
        fresh = untrained()
        for name, benchmark in tqdm(
            benchmarks.items(), desc="untrained", unit="benchmark", dynamic_ncols=True, disable=rank() > 0
        ):
            results.metrics.update(_prefixed(f"untrained/{name}/", benchmark.evaluate(fresh).metrics))
    for key, value in results.metrics.items():
        if not math.isfinite(value):
            raise CommandFailed(
                f"{key} is {value}: the model gives scores that are not finite numbers, or nothing was left to measure"
            )
    results.requirements.extend(check(requirement, results.metrics) for requirement in config.requirements)
    return results


def check(requirement: RequirementConfig, metrics: Mapping[str, float]) -> Requirement:
    """Compare one metric with what is demanded of it; a key that was not measured is not met, and its value NaN."""
    from eval.results import Requirement

    for key in (requirement.metric, requirement.baseline, requirement.ratio_to):
        if key and key not in metrics:
            return Requirement(
                requirement.metric, f">= {requirement.min:g}, but {key} was not measured", math.nan, False
            )
    value, bound, wanted = metrics[requirement.metric], requirement.min, f">= {requirement.min:g}"
    if requirement.baseline:
        bound, wanted = (
            metrics[requirement.baseline] + requirement.min,
            f">= {requirement.baseline} + {requirement.min:g}",
        )
    if requirement.ratio_to:
        bound, wanted = (
            metrics[requirement.ratio_to] * requirement.min,
            f">= {requirement.min:g} x {requirement.ratio_to}",
        )
    return Requirement(requirement.metric, wanted, value, value >= bound)


def print_table(results: Results) -> None:
    """Each metric with its 95 % interval beside its baselines, then what was required."""
    own = [key for key in results.metrics if is_model_metric(key)]
    beside = [prefix for prefix in PREFIXES if any(key.startswith(prefix + "/") for key in results.metrics)]
    width = max(map(len, own), default=0)
    print(f"\n{'':<{width}}  {'model':>7}  {'95 %':<14}" + "".join(f"  {prefix:>17}" for prefix in beside))
    for key in own:
        low_high = "[{:.3f}, {:.3f}]".format(*results.intervals[key]) if key in results.intervals else ""
        baselines = "".join(
            f"  {results.metrics[f'{prefix}/{key}']:>17.3f}" if f"{prefix}/{key}" in results.metrics else " " * 19
            for prefix in beside
        )
        print(f"{key:<{width}}  {results.metrics[key]:>7.3f}  {low_high:<14}{baselines}".rstrip())
    print()
    for requirement in results.requirements:
        print(
            f"{'PASS' if requirement.passed else 'FAIL'}  {requirement.metric} = {requirement.value:.3f}, wanted {requirement.wanted}"
        )


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + key: value for key, value in values.items()}


def _about(config: EvalConfig) -> dict[str, str]:
    """Where the numbers come from."""
    from model.distributed import world_size

    git = ["git", "describe", "--always", "--dirty= with changes", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(
            git, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:  # there is no git
        commit = ""
    return {
        "command": shlex.join(["python", "-m", "eval.run", *sys.argv[1:]]),
        "config": to_yaml(config),
        "commit": commit or "not in a git checkout",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processes": str(world_size()),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


if __name__ == "__main__":
    sys.exit(run(EvalConfig, __doc__, main))
