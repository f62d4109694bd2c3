"""The training command in processes of its own: killed and started again, resumed with other numbers of processes, misused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_shards import write_data_set

ROOT = Path(__file__).resolve().parent.parent
TWO_PROCESSES = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
use_cpu: true
num_machines: 1
num_processes: 2
machine_rank: 0
main_process_port: 0
mixed_precision: "no"
dynamo_backend: "no"
"""
SETTINGS = [
    "steps=6", "projection_steps=3", "batch_size=8", "tracker=none", "log_every_steps=1", "checkpoint.every_steps=1", "checkpoint.keep_last=9",
    "stream.image_size_px=32", "stream.clip_duration_s=0.64", "stream.workers=1", "stream.augment.splice_max_s=0.3", "stream.augment.splice_min_s=0.1",
    "stream.augment.extra_mask_probability=0.0",
    "model.channels=16", "model.heads=2", "model.audio_projection=audio_linear", "model.image_pool=1", "optim.warmup_steps=1", "optim.lr=0.001",
    "loss.random_positions=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Arguments of a training on two small real data sets."""
    root = tmp_path_factory.mktemp("data")
    folders = [write_data_set(root / name, [9, 8], prefix=name) for name in ("first", "second")]
    sources = ", ".join(f"{{name: {folder.name}, shards: {folder}}}" for folder in folders)
    return [*SETTINGS, f"stream.sources=[{sources}]"]


def _command(settings, out, *more, accelerate=None):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file", str(accelerate)] if accelerate else [sys.executable]
    replaced = {text.split("=")[0] for text in more}
    kept = [text for text in settings if text.split("=")[0] not in replaced]
    return [*launch, "train.py", *kept, f"out={out}", "name=a", *more]


def _run(*arguments, **keywords):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(_command(*arguments, **keywords), cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment)


def _weights(out, step):
    return load_file(out / f"a/checkpoints/step_{step:08d}/model.safetensors")


def _losses(out):
    return [json.loads(line)["loss/total"] for line in (out / "a/history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def uninterrupted(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    done = _run(settings, out)
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_leaves_what_it_says(uninterrupted):
    assert sorted(p.name for p in (uninterrupted / "a").iterdir()) == ["checkpoints", "config.yaml", "history.jsonl"]
    assert sorted(p.name for p in (uninterrupted / "a/checkpoints/step_00000006").iterdir()) == [
        "config.json", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json",
    ]  # fmt: skip
    line = json.loads((uninterrupted / "a/history.jsonl").read_text().splitlines()[-1])
    assert {"step", "loss/total", "loss/info_nce", "loss/tv", "scale", "lr", "grad_norm", "clips_per_s", "data_wait_share", "heads/share_of_head_0"} <= set(
        line
    )


def test_each_phase_changes_only_what_it_may(uninterrupted):
    first, switch, last = (_weights(uninterrupted, step) for step in (1, 3, 6))
    parts = [name for name in first if name.endswith("weight")]
    moved = {name: (not torch.equal(first[name], switch[name]), not torch.equal(switch[name], last[name])) for name in parts}
    for name, (in_projections, in_full) in moved.items():
        learns = "class_layer" not in name
        assert in_projections == (learns and "projection" in name) and in_full == learns, name


def test_a_run_killed_in_the_middle_goes_on_to_the_same_weights(settings, uninterrupted, tmp_path):
    process = subprocess.Popen(_command(settings, tmp_path), cwd=ROOT, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while not list(tmp_path.glob("a/checkpoints/step_*/manifest.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = max(int(folder.name[5:]) for folder in tmp_path.glob("a/checkpoints/step_*"))
    done = _run(settings, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"going on after step {reached} of" in done.stdout or reached == 6
    for name, value in _weights(uninterrupted, 6).items():
        assert torch.equal(value, _weights(tmp_path, 6)[name]), name
    assert _losses(tmp_path) == _losses(uninterrupted)


def test_a_finished_run_has_nothing_to_do(settings, uninterrupted):
    done = _run(settings, uninterrupted)
    assert done.returncode == 0 and "trained 6 steps" in done.stdout


def test_going_on_with_other_settings_is_refused_with_one_line(settings, uninterrupted):
    done = _run(settings, uninterrupted, "seed=5")
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1 and "seed: 0 -> 5" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_processes_make_the_same_steps_as_one_and_either_goes_on_where_the_other_stopped(settings, uninterrupted, tmp_path):
    (tmp_path / "two.yaml").write_text(TWO_PROCESSES)
    stopped = _run(settings, tmp_path, "steps=4", accelerate=tmp_path / "two.yaml")
    assert stopped.returncode == 0, stopped.stderr
    assert "on 2 processes" in stopped.stdout
    assert _losses(tmp_path) == pytest.approx(_losses(uninterrupted)[:4], abs=2e-5)
    alone = _run(settings, tmp_path)
    assert alone.returncode == 0 and "going on after step 4" in alone.stdout, alone.stderr
    for name, value in _weights(uninterrupted, 6).items():
        # Adam divides by the gradient's own size, so rounding moves a weight whose gradient is next to nothing; a step is up to 1e-3.
        difference = (_weights(tmp_path, 6)[name].double() - value.double()).abs()
        assert difference.max() < 3e-4 and (difference < 2e-5).double().mean() > 0.98, name


@pytest.mark.slow
def test_a_batch_that_the_processes_do_not_divide_is_refused(settings, tmp_path):
    (tmp_path / "two.yaml").write_text(TWO_PROCESSES)
    done = _run(settings, tmp_path, "batch_size=7", accelerate=tmp_path / "two.yaml")
    assert done.returncode != 0 and "batch_size=7" in done.stderr
