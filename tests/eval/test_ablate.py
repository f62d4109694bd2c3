"""The ablation runner: invalid settings, the table, and real trainings that resume after an interruption."""

import json
import math
import os
import signal
import statistics
import subprocess
import sys

import pytest
import yaml
from paths import ROOT
from tiny_evaluation import write_evaluation
from tiny_runs import settings_of_a_run, wait

from configs.cli import run
from configs.load import load
from configs.schema.ablate import AblateConfig
from eval.ablate import main, plan_runs
from eval.report.seed_stats import estimate, format_table, significantly_different

TOY = "configs/ablate/toy.yaml"


def _plan(*arguments):
    return plan_runs(load(AblateConfig, [f"config={ROOT / TOY}", "out=runs/x", *arguments]))


def test_toy_ablation_is_planned_seed_by_seed(monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = _plan()
    assert len(runs) == 33 and [r.seed for r in runs] == [0] * 11 + [1] * 11 + [2] * 11
    assert len({r.folder for r in runs}) == 33
    first = {r.variant: r.train for r in runs[:11]}
    assert (
        first["mean pooling (sisa)"].model.similarity_aggregation == "sisa"
        and first["mean pooling (sisa)"].steps == 1000
    )
    assert (
        first["head specialization (disentangle)"].loss.disentangle == 5 and first["no other added term"].loss.tv == 0
    )
    assert runs[0].evaluate.baselines == [] and runs[0].evaluate.requirements == [] and runs[0].evaluate.video == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seeds=[]"], "seeds=[]"),
        (["seeds=[1, 1]"], "given twice"),
        (["variants=[]"], "variants=[]"),
        (["out="], "out= is missing"),
        (["train=nowhere.yaml"], "nowhere.yaml"),
        (["accelerate=nowhere.yaml"], "accelerate=nowhere.yaml: no such file"),
        (["variants=[{name: a, overrides: [model.agregation=sisa]}]"], "model.agregation"),
        (["variants=[{name: a, overrides: [model.num_heads=many]}]"], "model.num_heads"),
        (["variants=[{name: a, overrides: [seed=3]}]"], "seed=3 is not allowed in a variant"),
        (["variants=[{name: a}, {name: a}]"], "the name 'a' is used twice"),
        (["variants=[{name: a b}, {name: A-B}]"], "the name 'A-B' is used twice, or differs only in case"),
        (["variants=[{name: ---}]"], "has no letter or digit"),
        (["variants=[{name: a, overrides: [steps=1, steps=2]}]"], "steps is given twice in the variant a"),
        (["base_overrides=[steps=1, steps=2]"], "steps is given twice in base_overrides"),
        (
            ["metrics=[foo]"],
            "metrics=foo: not measured by configs/eval/toy.yaml; allowed is task/variant/metric with a task of ade20k",
        ),
        (["metrics=[disentanglement/heads/pred]"], "metrics=disentanglement/heads/pred: not measured"),
        (["variants=[{name: a, overrides: [model.num_heads=7]}]"], "variants, a: model.num_heads=7 must divide"),
        (
            ["variants=[{name: a, overrides: [model.similarity_aggregation=foo]}]"],
            "variants, a: model.similarity_aggregation",
        ),
        (["base_overrides=[stream.sources.0.shards=nowhere]"], "nowhere: no such folder of shards"),
    ],
)
def test_invalid_settings_are_one_error_line_before_training(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    assert (
        run(
            AblateConfig,
            "",
            main,
            [f"config={TOY}", *([] if "out=" in arguments else [f"out={tmp_path / 'out'}"]), *arguments],
        )
        == 2
    )
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_estimate_has_a_student_t_interval():
    mean, half_width = estimate([0.5, 0.6, 0.8])
    assert mean == pytest.approx(19 / 30)
    assert half_width == pytest.approx(4.302653 * statistics.stdev([0.5, 0.6, 0.8]) / math.sqrt(3))
    assert math.isnan(estimate([0.5]).half_width)
    assert estimate(list(map(float, range(50)))).half_width == pytest.approx(
        2.00958 * statistics.stdev(range(50)) / math.sqrt(50), rel=1e-5
    )


def test_variants_are_compared_seed_by_seed():
    """The seeds vary by 0.2, the difference by 0.01: it is significant only seed by seed."""
    one, other = {0: 0.4, 1: 0.6, 2: 0.8}, {0: 0.45, 1: 0.66, 2: 0.85}
    assert significantly_different(one, other)
    assert not significantly_different(one, {0: 0.66, 1: 0.45, 2: 0.85})
    assert not significantly_different({0: 0.1}, {0: 0.9}), "one seed has no interval"
    assert not significantly_different(one, {7: 0.1, 8: 0.1}), "no seed in common"


def test_table_shows_measured_variants_and_marks_differences():
    keys = ["ade20k_speech/basic/map", "disentanglement/heads/pred_dis", "places_retrieval/audio_to_image/recall_at_10"]
    metrics = {
        "published": {0: dict.fromkeys(keys, 0.5), 1: dict.fromkeys(keys, 0.6), 2: dict.fromkeys(keys, 0.7)},
        "one head": {seed: {keys[0]: 0.30 + seed / 10, keys[2]: 0.4} for seed in range(3)},
        "one seed": {0: dict.fromkeys(keys, 0.25)},
        "not measured": {},
    }
    head, _, *rows = format_table(metrics, keys).splitlines()
    assert (
        head
        == "| | seeds | ade20k_speech map | disentanglement pred_dis | places_retrieval audio_to_image recall_at_10 |"
    )
    assert rows == [
        "| published | 3 | 0.600 ± 0.248 | 0.600 ± 0.248 | 0.600 ± 0.248 |",
        "| one head | 3 | **0.400 ± 0.248** | – | 0.400 ± 0.000 |",
        "| one seed | 1 | 0.250 | 0.250 | 0.250 |",
    ]


@pytest.mark.slow
def test_interrupted_study_resumes_without_repeating_finished_runs(tmp_path):
    """Interrupted in the first training, then stopped by an unknown metric; finished runs are not repeated."""
    train = yaml.safe_dump({"stream": {"sources": []}})
    settings = [
        text
        for text in settings_of_a_run(tmp_path)
        if not text.startswith(("tracker", "steps", "frozen_encoder_steps"))
    ]
    (tmp_path / "train.yaml").write_text(train)
    evaluate = write_evaluation(tmp_path, video=False, benchmarks="[places_retrieval]")
    ablation = {
        "train": str(tmp_path / "train.yaml"),
        "evaluate": str(evaluate),
        "accelerate": str(ROOT / "configs/accelerate/cpu.yaml"),
        "out": str(tmp_path / "out"),
        "base_overrides": [*settings, "frozen_encoder_steps=1", "steps=3"],
        "seeds": [0, 1],
        "variants": [
            {"name": "two heads"},
            {"name": "Mean pooling", "overrides": ["model.similarity_aggregation=sisa"]},
        ],
        "metrics": ["places_retrieval/audio_to_image/recall_at_1"],
    }
    (tmp_path / "ablation.yaml").write_text(yaml.safe_dump(ablation))
    command = [sys.executable, "-m", "eval.ablate", f"config={tmp_path / 'ablation.yaml'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    first = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    wait(lambda: list(tmp_path.glob("out/two_heads/seed_0/checkpoints/step_*/manifest.json")), first)
    os.killpg(first.pid, signal.SIGINT)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 130 and "run the same command again" in output

    unknown = subprocess.run(
        [*command, "metrics=[places_retrieval/nothing]"], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert (
        unknown.returncode == 2
        and "metrics=places_retrieval/nothing: not measured by" in unknown.stderr.splitlines()[-1]
    )
    log = (tmp_path / "out/two_heads/seed_0/ablation.log").read_text()
    assert "resuming after step" in log

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/two_heads/seed_0/ablation.log").read_text() == log
    assert "| two heads | 2 |" in done.stdout and "| Mean pooling | 2 |" in done.stdout
    written = json.loads((tmp_path / "out/ablation.json").read_text())
    assert [(v["name"], sorted(v["seeds"])) for v in written["variants"]] == [
        ("two heads", ["0", "1"]),
        ("Mean pooling", ["0", "1"]),
    ]
    measured = json.loads((tmp_path / "out/mean_pooling/seed_1/metrics.json").read_text())["metrics"]
    assert written["variants"][1]["seeds"]["1"] == measured
    config = (tmp_path / "out/mean_pooling/seed_1/config.yaml").read_text()
    assert "aggregation: sisa" in config and "seed: 1" in config

    broken = subprocess.run(
        [*command, "variants=[{name: odd, overrides: [global_batch_size=10000]}]"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert broken.returncode == 1 and broken.stderr.splitlines()[-1].startswith("error: odd, seed 0: error: ")
