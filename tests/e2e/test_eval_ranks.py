"""`eval.run` on several real processes: bit-identical metrics, one process writes, all end together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT
from tiny_evaluation import BENCHMARKS, write_evaluation
from tiny_localization import NAMES, data_settings, write_localization_sets
from tiny_training import tiny_config, tiny_model

from model.hub import save_pretrained

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    settings = write_evaluation(root)
    config = tiny_config()
    torch.manual_seed(0)
    (root / "model").mkdir()
    save_pretrained(tiny_model(config), config.model, root / "model")
    twins = [f"{key}={path}" for key, path in data_settings(write_localization_sets(root / "twins")).items()]
    names = [*BENCHMARKS.strip("[]").split(", "), *NAMES]
    return [
        f"config={settings}",
        f"checkpoint={root / 'model'}",
        f"benchmarks={names}",
        "batch_size=5",
        "object_prior=random",
        *twins,
    ]


def _run(launch, arguments):
    return subprocess.run(
        [sys.executable, "-m", *launch, "eval.run", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def _ranks(count):
    return ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]


@pytest.mark.slow
def test_one_and_three_processes_give_identical_metrics_on_all_benchmarks(arguments, tmp_path):
    baselines = "baselines=[chance,untrained,global_pooling,object_prior]"
    written = []
    for launch, out in (([], tmp_path / "one"), (_ranks(3), tmp_path / "three")):
        done = _run(launch, [*arguments, baselines, f"out={out}"])
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("metrics: ") == 1 and done.stdout.count("is3_masks/median/ciou ") == 1
        assert (
            (out / "report.html").stat().st_size > 100_000
            and (out / "report.md").is_file()
            and (out / "heatmap.mp4").is_file()
        )
        content = json.loads((out / "metrics.json").read_text())
        assert content["about"]["processes"] == ("3" if launch else "1")
        for key in ("command", "config", "date", "processes"):
            del content["about"][key]
        written.append(content)
    one, three = written
    assert len(one["metrics"]) > 300 and len(one["intervals"]) > 50
    assert json.dumps(one) == json.dumps(three)


@pytest.mark.slow
def test_accelerate_launch_runs_eval_and_one_process_writes(arguments, tmp_path):
    launch = [
        "accelerate.commands.launch",
        "--quiet",
        "--config_file",
        "configs/accelerate/cpu.yaml",
        "--multi_gpu",
        "--num_processes",
        "2",
        "-m",
    ]
    done = _run(launch, [*_without(arguments, "benchmarks"), "benchmarks=[vggss]", "baselines=[]", f"out={tmp_path}"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("metrics: ") == 1
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["about"]["processes"] == "2" and "vggss/median/ciou" in written["metrics"]


@pytest.mark.slow
def test_file_unreadable_on_one_rank_ends_all_ranks_with_one_line(arguments, tmp_path):
    root = Path(next(a for a in arguments if a.startswith("data.vggss.root=")).partition("=")[2])
    picture = sorted((root / "frames").iterdir())[0]
    content = picture.read_bytes()
    picture.write_bytes(content[:100])
    try:
        done = _run(
            _ranks(2), [*_without(arguments, "benchmarks"), "benchmarks=[vggss]", "baselines=[]", f"out={tmp_path}"]
        )
    finally:
        picture.write_bytes(content)
    assert done.returncode and f"error: {picture} is not a complete image" in done.stderr
    assert "error: the evaluation failed on another process" in done.stderr
    assert not (tmp_path / "metrics.json").exists() and "eval/run.py" not in done.stderr


def _without(arguments, key):
    return [argument for argument in arguments if argument.partition("=")[0] != key]
