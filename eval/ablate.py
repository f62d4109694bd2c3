"""Ablation study: `python -m eval.ablate config=configs/ablate/toy.yaml out=runs/ablation`

Trains every variant with every seed (train.py), evaluates each (eval.run), and prints a table: mean over seeds with its
95 % interval; bold: the interval of the seed-by-seed difference from the first variant excludes 0. An interrupted study
resumes with the same command; finished runs are reused.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.cli import run
from configs.errors import CommandFailed, UsageError
from configs.load import find_config, load, to_yaml
from configs.schema import EvalConfig, TrainConfig
from configs.schema.ablate import AblateConfig, VariantConfig
from configs.validate import validate_train_config

# train.py lies next to the packages, in a checkout and in an installation.
TRAIN = Path(__file__).resolve().parents[1] / "train.py"


@dataclass(frozen=True)
class Run:
    """One training and its evaluation: the arguments of both commands, and the settings that result."""

    variant: str
    seed: int
    folder: Path
    train_arguments: list[str]
    evaluate_arguments: list[str]
    train: TrainConfig
    evaluate: EvalConfig


def main(config: AblateConfig) -> int:
    """Check all settings, train and evaluate what is missing, write and print the table."""
    from tqdm import tqdm

    from configs.atomic_write import atomic_open
    from eval.report.seed_stats import format_table

    runs = plan_runs(config)
    check_variants(runs)
    results: dict[str, dict[int, dict[str, float]]] = {variant.name: {} for variant in config.variants}
    out, table = Path(config.out), ""
    bar = tqdm(runs, unit="run", dynamic_ncols=True)
    for one in bar:
        bar.set_description(f"{one.variant}, seed {one.seed}")
        metrics = _read_results(one)
        if metrics is None:
            _train_and_evaluate(one, str(find_config(config.accelerate, "accelerate")))
            metrics = _read_results(one)
        if metrics is None:
            raise CommandFailed(f"{one.folder}: metrics.json has other settings than the run that was just evaluated")
        for key in config.metrics:
            if key not in metrics and not key.startswith("disentanglement/"):  # not measured of a single head
                raise UsageError(f"metrics={key}: not measured by {config.evaluate}; allowed are {', '.join(metrics)}")
        results[one.variant][one.seed] = metrics
        table = format_table(results, config.metrics)
        for name, text in (("ablation.json", _to_json(config, results)), ("ablation.md", table)):
            with atomic_open(out / name) as file:
                file.write(text.encode())
    print(table)
    print(f"table: {out / 'ablation.md'}")
    return 0


def plan_runs(config: AblateConfig) -> list[Run]:
    """All runs, ordered by seed and then by variant, so that an unfinished table has comparable rows.

    Raises:
        UsageError: settings that training or evaluation refuses, two variants with one name or folder, or nothing to
            do.
    """
    for key in ("train", "evaluate", "out", "seeds", "variants", "metrics"):
        if not getattr(config, key):
            raise UsageError(f"{key}= is missing" if getattr(config, key) == "" else f"{key}=[]: give at least one")
    if len(set(config.seeds)) < len(config.seeds):
        raise UsageError(f"seeds={config.seeds}: a seed is given twice")
    find_config(config.accelerate, "accelerate")
    folders: set[str] = set()
    for variant in config.variants:
        folder = _folder_name(variant)
        if not folder or folder in folders:
            problem = "is used twice, or differs only in case or punctuation" if folder else "has no letter or digit"
            raise UsageError(f"variants: the name {variant.name!r} {problem}")
        folders.add(folder)
    runs = [_plan_run(config, variant, seed) for seed in config.seeds for variant in config.variants]
    for key in config.metrics:
        _check_metric(key, config.evaluate, runs[0].evaluate.benchmarks)
    return runs


def _check_metric(key: str, evaluate: str, benchmarks: Sequence[str]) -> None:
    """Raises UsageError: a metric of a benchmark that does not run. Most exact keys are known only after a run."""
    task, _, rest = key.partition("/")
    is_heads_metric = re.fullmatch(r"heads/(pred_dis|act_dis|head_\d+_win_rate)", rest)
    if task not in benchmarks or (task == "disentanglement" and not is_heads_metric):
        raise UsageError(
            f"metrics={key}: not measured by {evaluate}; allowed is task/variant/metric with a task of "
            f"{', '.join(benchmarks)}"
        )


def check_variants(runs: Sequence[Run]) -> None:
    """Check, before hours go into the first variant, that the model and data of every variant can be used.

    Raises:
        UsageError: a model that cannot be built, or missing shards.
    """
    from model.build import build_random_init
    from model.inputs import InputSpec
    from pipelines.stream.index import DatasetIndex

    opened: set[str] = set()
    for one in {one.variant: one for one in runs}.values():
        stream = one.train.stream
        inputs = InputSpec(stream.image_size_px, stream.clip_duration_s, stream.sample_rate_hz)
        try:
            build_random_init(one.train.model, inputs, seed=0)
            for source in stream.sources:
                for folder in set(source.shards) - opened:
                    DatasetIndex.open(folder)
                    opened.add(folder)
        except ValueError as error:
            raise UsageError(f"variants, {one.variant}: {error}") from None


def _plan_run(config: AblateConfig, variant: VariantConfig, seed: int) -> Run:
    folder = Path(config.out) / _folder_name(variant) / f"seed_{seed}"
    overrides = _by_key(config.base_overrides, "base_overrides")
    overrides |= _by_key(variant.overrides, f"the variant {variant.name}")
    if reserved := sorted(overrides.keys() & {"seed", "out", "name", "config"}):
        raise UsageError(
            f"variants, {variant.name}: {overrides[reserved[0]]} is not allowed in a variant; use seeds= and out="
        )
    own = {
        "seed": f"seed={seed}",
        "out": f"out={folder.parent}",
        "name": f"name={folder.name}",
        "tracker": "tracker=none",
    }
    train_arguments = [f"config={config.train}", *(overrides | own).values()]
    evaluate_arguments = [
        f"config={config.evaluate}",
        f"checkpoint={folder}",
        f"out={folder}",
        "baselines=[]",
        "requirements=[]",
        "video=",
    ]
    try:
        train = load(TrainConfig, train_arguments)
        validate_train_config(train)
    except ValueError as error:
        raise UsageError(f"variants, {variant.name}: {error}") from None
    evaluate = load(EvalConfig, evaluate_arguments)
    return Run(variant.name, seed, folder, train_arguments, evaluate_arguments, train, evaluate)


def _by_key(overrides: Sequence[str], origin: str) -> dict[str, str]:
    by_key: dict[str, str] = {}
    for override in overrides:
        key = override.partition("=")[0]
        if key in by_key:
            raise UsageError(f"{key} is given twice in {origin}: {list(overrides)}")
        by_key[key] = override
    return by_key


def _folder_name(variant: VariantConfig) -> str:
    return "_".join("".join(letter if letter.isalnum() else " " for letter in variant.name.lower()).split())


def _read_results(one: Run) -> dict[str, float] | None:
    """The metrics of a run, if it was trained and evaluated with these settings."""
    settings, metrics = one.folder / "config.yaml", one.folder / "metrics.json"
    if not settings.is_file() or not metrics.is_file() or settings.read_text() != to_yaml(one.train):
        return None
    try:
        stored = json.loads(metrics.read_bytes())
        return stored["metrics"] if stored["about"]["config"] == to_yaml(one.evaluate) else None
    except (ValueError, KeyError, TypeError):
        return None


def _train_and_evaluate(one: Run, accelerate: str) -> None:
    """Train and evaluate in processes of their own, with their output in `ablation.log`."""
    launch = ["-m", "accelerate.commands.launch", "--quiet", "--config_file", accelerate, str(TRAIN)]
    one.folder.mkdir(parents=True, exist_ok=True)
    log = one.folder / "ablation.log"
    for command in ([*launch, *one.train_arguments], ["-m", "eval.run", *one.evaluate_arguments]):
        with log.open("ab") as file:
            done = subprocess.run(
                [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False
            )
        if done.returncode:
            errors = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("error: ")]
            reason = errors[-1] if errors else f"exit code {done.returncode}"
            raise CommandFailed(f"{one.variant}, seed {one.seed}: {reason} (full output: {log})")


def _to_json(config: AblateConfig, results: Mapping[str, Mapping[int, Mapping[str, float]]]) -> str:
    variants: list[dict[str, Any]] = [
        {"name": variant.name, "overrides": list(variant.overrides), "seeds": results[variant.name]}
        for variant in config.variants
    ]
    return json.dumps({"config": to_yaml(config), "variants": variants}, indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(run(AblateConfig, __doc__, main))
