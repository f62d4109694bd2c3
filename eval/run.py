"""Measure a model: `python -m eval.run config=configs/eval/toy.yaml checkpoint=runs/demo out=runs/demo`

Runs the benchmarks, beside them the floors (chance, the same architecture untrained, prompts shuffled among the items), writes metrics.json and
report.html into OUT, prints a table. Exit 1 when something that the settings require was not reached.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.command import UsageError, run
from configs.load import to_yaml
from configs.schema import EvalConfig, RequirementConfig

if TYPE_CHECKING:
    from eval.results import Measured, Requirement, Results

FLOORS = ("chance", "untrained", "shuffled_prompts")


def main(config: EvalConfig) -> int:
    """Make the benchmarks, load the model, measure, write, print."""
    from eval.benchmarks.assemble import assemble
    from eval.render import render_heatmap_video
    from eval.report import write_report
    from model.hub import from_pretrained, untrained
    from model.training.tracking import read_history

    for key in ("checkpoint", "out"):
        if not getattr(config, key):
            raise UsageError(f"{key}= is missing: give the run folder of a training")
    check_settings(config)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    model = from_pretrained(config.checkpoint)
    benchmarks = assemble(config)
    results = evaluate(config, benchmarks, model, untrained(config.checkpoint, config.seed) if "untrained" in config.floors else None)

    write_metrics(results, out / "metrics.json")
    video = render_heatmap_video(model, Path(config.video), out / "heatmap.mp4") if config.video else None
    report = write_report(results, out, read_history(Path(config.checkpoint) / "history.jsonl"), video)
    print_table(results)
    missed = [r for r in results.requirements if not r.passed]
    if results.requirements:
        print(f"{len(results.requirements) - len(missed)} of {len(results.requirements)} requirements met" + (": it did not learn enough" if missed else ""))
    print(f"numbers: {out / 'metrics.json'}\nreport:  {report}")
    return 1 if missed else 0


def check_settings(config: EvalConfig) -> None:
    """Meet mistakes before anything is measured. Raises UsageError: an unknown floor, a video that is not there."""
    for floor in config.floors:
        if floor not in FLOORS:
            raise UsageError(f"floors: {floor!r}, allowed are {', '.join(FLOORS)}")
    if config.video and not Path(config.video).is_file():
        raise UsageError(f"video={config.video}: no such file")


def evaluate(config: EvalConfig, benchmarks: Mapping[str, Any], model: Any, floor_model: Any | None) -> Results:
    """Run every benchmark on the model and on its floors; on several ranks, each of which gets all results."""
    from tqdm import tqdm

    from eval.parallel import rank
    from eval.results import Results

    metrics: dict[str, float] = {}
    items: dict[str, int] = {}
    per_class, examples = {}, []
    bar = tqdm(benchmarks.items(), desc="benchmarks", unit="benchmark", dynamic_ncols=True, disable=rank() > 0)
    for name, benchmark in bar:
        bar.set_postfix_str(name)
        measured: Measured = benchmark.evaluate(model)
        metrics |= _prefixed(f"{name}/", measured.metrics)
        items |= _prefixed(f"{name}/", measured.items)
        examples += measured.examples
        if measured.per_class:
            per_class[name] = dict(measured.per_class)
        if "chance" in config.floors:
            metrics |= _prefixed(f"chance/{name}/", measured.chance)
        if "shuffled_prompts" in config.floors and benchmark.prompted:
            metrics |= _prefixed(f"shuffled_prompts/{name}/", benchmark.evaluate(model, shuffled=True).metrics)
    if floor_model is not None:
        for name, benchmark in tqdm(benchmarks.items(), desc="untrained", unit="benchmark", dynamic_ncols=True, disable=rank() > 0):
            metrics |= _prefixed(f"untrained/{name}/", benchmark.evaluate(floor_model).metrics)
    requirements = [check(requirement, metrics) for requirement in config.require]
    return Results(metrics, items, requirements, per_class, examples, _about(config))


def check(requirement: RequirementConfig, metrics: Mapping[str, float]) -> Requirement:
    """Compare one metric with what is demanded of it; a key that was not measured is not met, and its value NaN."""
    from eval.results import Requirement

    for key in (requirement.metric, requirement.above, requirement.times):
        if key and key not in metrics:
            return Requirement(requirement.metric, f">= {requirement.at_least:g}, but {key} was not measured", math.nan, False)
    value, bound, wanted = metrics[requirement.metric], requirement.at_least, f">= {requirement.at_least:g}"
    if requirement.above:
        bound, wanted = metrics[requirement.above] + requirement.at_least, f">= {requirement.above} + {requirement.at_least:g}"
    if requirement.times:
        bound, wanted = metrics[requirement.times] * requirement.at_least, f">= {requirement.at_least:g} x {requirement.times}"
    return Requirement(requirement.metric, wanted, value, value >= bound)


def write_metrics(results: Results, path: Path) -> None:
    """metrics.json: values, counts, requirements, classes and where they come from; it appears whole or not at all."""
    from pipelines.whole_file import whole_file

    content = {
        "metrics": dict(sorted(results.metrics.items())),
        "items": results.items,
        "requirements": [dataclasses.asdict(r) | {"value": None if math.isnan(r.value) else r.value} for r in results.requirements],
        "per_class": results.per_class,
        "about": results.about,
    }
    with whole_file(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def print_table(results: Results) -> None:
    """Each metric beside its floors, then what was required."""
    own = [key for key in results.metrics if key.split("/")[0] not in FLOORS]
    floors = [floor for floor in FLOORS if any(key.startswith(floor + "/") for key in results.metrics)]
    width = max(map(len, own), default=0)
    print(f"\n{'':<{width}}  {'model':>7}" + "".join(f"  {floor:>16}" for floor in floors))
    for key in own:
        beside = "".join(f"  {results.metrics[f'{floor}/{key}']:>16.3f}" if f"{floor}/{key}" in results.metrics else " " * 18 for floor in floors)
        print(f"{key:<{width}}  {results.metrics[key]:>7.3f}{beside}")
    print()
    for requirement in results.requirements:
        print(f"{'PASS' if requirement.passed else 'FAIL'}  {requirement.metric} = {requirement.value:.3f}, wanted {requirement.wanted}")


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + key: value for key, value in values.items()}


def _about(config: EvalConfig) -> dict[str, Any]:
    """Where the numbers come from."""
    import torch

    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return {
        "command": "python -m eval.run " + " ".join(sys.argv[1:]),
        "config": to_yaml(config),
        "commit": done.stdout.strip() or "not in a git checkout",
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    sys.exit(run(EvalConfig, __doc__, main))
