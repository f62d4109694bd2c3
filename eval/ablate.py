"""What is each part of a model worth? `python -m eval.ablate config=configs/ablate/toy.yaml out=runs/ablation`

Trains every variant with every seed (by train.py), measures each (by eval.run), and prints a table: mean over seeds and its 95 % interval; bold where the
difference from the first variant, seed by seed, has an interval without 0. Interrupted, the same command goes on; what is done is not done again.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.cli import run
from configs.errors import CommandFailed, UsageError
from configs.load import find_config, load, to_yaml
from configs.schema import EvalConfig, TrainConfig
from configs.schema.ablate import AblateConfig, VariantConfig
from configs.validate import validate_train_config

if TYPE_CHECKING:
    from eval.report.seed_stats import Findings

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Run:
    """One training and its evaluation: the arguments of both, and the settings that these make."""

    variant: str
    seed: int
    folder: Path
    train_arguments: list[str]
    evaluate_arguments: list[str]

    @cached_property
    def train(self) -> TrainConfig:
        """Raises UsageError."""
        return load(TrainConfig, self.train_arguments)

    @cached_property
    def evaluate(self) -> EvalConfig:
        """Raises UsageError."""
        return load(EvalConfig, self.evaluate_arguments)


def main(config: AblateConfig) -> int:
    """Look at all settings, train and measure what is not done yet, write and print the table."""
    from tqdm import tqdm

    from configs.atomic_write import atomic_open
    from eval.report.seed_stats import table

    runs = plan_runs(config)
    check_variants(runs)
    found: Findings = {variant.name: {} for variant in config.variants}
    bar = tqdm(runs, unit="run", dynamic_ncols=True)
    for planned_run in bar:
        bar.set_description(f"{planned_run.variant}, seed {planned_run.seed}")
        metrics = _measured(planned_run)
        if metrics is None:
            _train_and_evaluate(planned_run, str(find_config(config.accelerate, "accelerate")))
            metrics = _measured(planned_run)
        if metrics is None:
            raise CommandFailed(
                f"{planned_run.folder}: trained and measured, but its metrics.json is of other settings"
            )
        unknown = [key for key in config.metrics if key not in metrics and not key.startswith("disentanglement/")]
        if unknown:
            raise UsageError(
                f"metrics={unknown[0]}: not measured by {config.evaluate}; measured are {', '.join(metrics)}"
            )
        found[planned_run.variant][planned_run.seed] = metrics
        written = table(found, config.metrics)
        for name, text in (
            ("ablation.json", json.dumps(_as_json(config, found), indent=2) + "\n"),
            ("ablation.md", written),
        ):
            with atomic_open(Path(config.out) / name) as file:
                file.write(text.encode())
    print(written)
    print(f"table: {Path(config.out) / 'ablation.md'}")
    return 0


def plan_runs(config: AblateConfig) -> list[Run]:
    """Every run, all variants of one seed before those of the next, so that an unfinished table compares.

    Raises:
        UsageError: a setting that training or evaluation would refuse, two variants of one name or in one folder, nothing to do.
    """
    for key in ("train", "evaluate", "out"):
        if not getattr(config, key):
            raise UsageError(f"{key}= is missing")
    for key in ("seeds", "variants", "metrics"):
        if not getattr(config, key):
            raise UsageError(f"{key}=[]: give at least one")
    if len(set(config.seeds)) < len(config.seeds):
        raise UsageError(f"seeds={config.seeds}: one is given twice")
    find_config(config.accelerate, "accelerate")
    folders: dict[str, str] = {}
    for variant in config.variants:
        other = folders.setdefault(_folder_name(variant), variant.name)
        if (
            not _folder_name(variant)
            or other != variant.name
            or sum(v.name == variant.name for v in config.variants) > 1
        ):
            raise UsageError(
                f"variants: the name {variant.name!r} {'has no letter or digit' if not _folder_name(variant) else 'is not one of its own'}"
            )
    runs = [_planned(config, variant, seed) for seed in config.seeds for variant in config.variants]
    for one in runs[: len(config.variants)]:
        try:
            validate_train_config(one.train)
        except ValueError as error:
            raise UsageError(f"variants, {one.variant}: {error}") from None
    for key in config.metrics:
        _refuse_unknown(key, config.evaluate, runs[0].evaluate.benchmarks)
    return runs


def _refuse_unknown(key: str, evaluate: str, benchmarks: Sequence[str]) -> None:
    """Raises UsageError: a metric of no benchmark that is measured. (What a benchmark measures, only its run says.)"""
    task, _, rest = key.partition("/")
    if task not in benchmarks or (
        task == "disentanglement" and not re.fullmatch(r"heads/(pred_dis|act_dis|head_\d+_win_rate)", rest)
    ):
        raise UsageError(
            f"metrics={key}: not measured by {evaluate}, whose benchmarks are {', '.join(benchmarks)}; a metric is called task/variant/metric"
        )


def check_variants(runs: Sequence[Run]) -> None:
    """Meet, before hours go into the first one, what the training of any variant would refuse.

    Raises:
        UsageError: a model that cannot be built, shards that are not there.
    """
    from model.build import build_random_init
    from model.denseav import InputSpec
    from pipelines.stream.index import DatasetIndex

    opened: set[str] = set()
    for one in {one.variant: one for one in runs}.values():
        stream = one.train.stream
        try:
            build_random_init(
                one.train.model, InputSpec(stream.image_size_px, stream.clip_duration_s, stream.sample_rate_hz), seed=0
            )
            for shards in (source.shards for source in stream.sources if source.shards not in opened):
                DatasetIndex.open(shards)
                opened.add(shards)
        except ValueError as error:
            raise UsageError(f"variants, {one.variant}: {error}") from None


def _planned(config: AblateConfig, variant: VariantConfig, seed: int) -> Run:
    folder = Path(config.out) / _folder_name(variant) / f"seed_{seed}"
    for changes in (config.base_overrides, variant.overrides):
        keys = [change.partition("=")[0] for change in changes]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise UsageError(
                f"{twice} is given twice in {'base_overrides' if changes is config.base_overrides else f'the variant {variant.name}'}: {changes}"
            )
    changes = {change.partition("=")[0]: change for change in [*config.base_overrides, *variant.overrides]}
    own = [f"seed={seed}", f"out={folder.parent}", f"name={folder.name}", "tracker=none"]
    refused = sorted(changes.keys() & {"seed", "out", "name", "config"})
    if refused:
        raise UsageError(
            f"variants, {variant.name}: {changes[refused[0]]} is not for a variant to say; seeds= and out= do"
        )
    train = [f"config={config.train}", *(change for key, change in changes.items() if key != "tracker"), *own]
    evaluate = [
        f"config={config.evaluate}",
        f"checkpoint={folder}",
        f"out={folder}",
        "baselines=[]",
        "requirements=[]",
        "video=",
    ]
    return Run(variant.name, seed, folder, train, evaluate)


def _folder_name(variant: VariantConfig) -> str:
    return "_".join("".join(letter if letter.isalnum() else " " for letter in variant.name.lower()).split())


def _measured(planned_run: Run) -> dict[str, float] | None:
    """The metrics of a run that was trained and measured with these settings."""
    settings, metrics = planned_run.folder / "config.yaml", planned_run.folder / "metrics.json"
    if not settings.is_file() or not metrics.is_file() or settings.read_text() != to_yaml(planned_run.train):
        return None
    try:
        stored = json.loads(metrics.read_bytes())
        return stored["metrics"] if stored["about"]["config"] == to_yaml(planned_run.evaluate) else None
    except (ValueError, KeyError, TypeError):
        return None


def _train_and_evaluate(planned_run: Run, accelerate: str) -> None:
    """Train and measure, each in a process of its own, whose words go to `ablation.log`."""
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--quiet",
        "--config_file",
        accelerate,
        str(ROOT / "train.py"),
    ]
    measure = [sys.executable, "-m", "eval.run"]
    planned_run.folder.mkdir(parents=True, exist_ok=True)
    log = planned_run.folder / "ablation.log"
    for command in ([*launch, *planned_run.train_arguments], [*measure, *planned_run.evaluate_arguments]):
        with log.open("ab") as file:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False)
        if done.returncode:
            said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("error: ")]
            raise CommandFailed(
                f"{planned_run.variant}, seed {planned_run.seed}: {(said or [f'exit {done.returncode}'])[-1]} (all of it in {log})"
            )


def _as_json(config: AblateConfig, found: Mapping[str, Mapping[int, Mapping[str, float]]]) -> dict[str, Any]:
    changes = {variant.name: list(variant.overrides) for variant in config.variants}
    return {
        "config": to_yaml(config),
        "variants": [{"name": name, "overrides": changes[name], "seeds": seeds} for name, seeds in found.items()],
    }


if __name__ == "__main__":
    sys.exit(run(AblateConfig, __doc__, main))
