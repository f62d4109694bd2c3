"""The training command in separate processes: its files, resuming, invalid input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from tiny_runs import (
    ROOT,
    TWO_PROCESSES,
    assert_same_checkpoint,
    command,
    losses,
    run,
    settings_of_a_run,
    start,
    steps_saved,
    wait,
    weights,
)
from tiny_training import tiny_config, tiny_model

from model.training.torch_compile import compile_encoders

EVERYTHING = [
    "gradient_accumulation_steps=2", "optim.ema_decay=0.9", "optim.adaptive_clip_factor=1.5",
    "optim.adaptive_clip_window=11", "steps=30", "frozen_encoder_steps=14",
    "optim.groups=[{prefix: image_encoder, lr_mult: 0.5}]", "optim.schedule=restarts", "optim.cycle_steps=5",
    "grad_cache_chunk_size=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    done = run(settings, out)
    assert done.returncode == 0, done.stderr
    return out


def test_run_writes_the_documented_files(uninterrupted):
    assert sorted(p.name for p in (uninterrupted / "a").iterdir()) == ["checkpoints", "config.yaml", "history.jsonl"]
    assert sorted(p.name for p in (uninterrupted / "a/checkpoints/step_00000006").iterdir()) == [
        "clipping.safetensors", "config.json", "manifest.json", "model.safetensors", "optimizer.safetensors",
        "state.json",
    ]  # fmt: skip
    line = json.loads((uninterrupted / "a/history.jsonl").read_text().splitlines()[-1])
    assert {
        "step",
        "loss/total",
        "loss/info_nce",
        "loss/tv",
        "logit_scale",
        "lr",
        "grad_norm",
        "clips_per_s",
        "data_time_fraction",
        "heads/win_rate_0",
    } <= set(line)


def test_each_phase_changes_only_its_parameters(uninterrupted):
    first, switch, last = (weights(uninterrupted, step) for step in (1, 3, 6))
    parts = [name for name in first if name.endswith("weight")]
    moved = {
        name: (not torch.equal(first[name], switch[name]), not torch.equal(switch[name], last[name])) for name in parts
    }
    for name, (in_projections, in_full) in moved.items():
        learns = "cls_proj" not in name
        assert in_projections == (learns and "projection" in name) and in_full == learns, name


def test_killed_run_resumes_to_the_same_weights(settings, uninterrupted, tmp_path):
    process = start(settings, tmp_path)
    wait(lambda: steps_saved(tmp_path), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a/checkpoints/step_00000006").exists()
    done = run(settings, tmp_path)
    assert done.returncode == 0 and "resuming after step" in done.stdout, done.stderr
    assert_same_checkpoint(uninterrupted, tmp_path, 6)
    assert losses(tmp_path) == losses(uninterrupted)


@pytest.mark.slow
def test_accumulation_ema_groups_restarts_and_clipping_resume_bit_identically(settings, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = run(settings, whole, *EVERYTHING)
    assert done.returncode == 0, done.stderr
    for steps in (12, 20, 30):
        done = run(settings, parts, *EVERYTHING, f"steps={steps}")
        assert done.returncode == 0, done.stderr
    assert losses(parts) == losses(whole) and len(losses(whole)) == 30
    assert_same_checkpoint(whole, parts, 30, ("model", "optimizer", "clipping", "ema"))
    assert weights(whole, 30, "clipping")["counts"].max() == 16
    assert any(not torch.equal(value, weights(whole, 30)[name]) for name, value in weights(whole, 30, "ema").items())


@pytest.mark.slow
def test_step_of_two_batches_has_their_mean_loss_and_gradient(settings, tmp_path):
    still = [
        "frozen_encoder_steps=0",
        "optim.lr=0",
        "optim.adaptive_clip_factor=0",
        "optim.max_grad_norm_per_param=1e9",
    ]
    for name, more in (("one", ["steps=4"]), ("two", ["steps=2", "gradient_accumulation_steps=2"])):
        done = run(settings, tmp_path / name, *still, *more)
        assert done.returncode == 0, done.stderr
    a, b, c, d = losses(tmp_path / "one")
    assert len({a, b, c, d}) == 4 and losses(tmp_path / "two") == pytest.approx([(a + b) / 2, (c + d) / 2], abs=2e-6)
    after_first, after_second, of_both = (
        weights(tmp_path / run, step, "optimizer") for run, step in (("one", 1), ("one", 2), ("two", 1))
    )
    for name in (
        name for name in of_both if name.endswith("|exp_avg")
    ):  # 0.1 times the gradient plus 0.9 times the previous value
        first = after_first[name] / 0.1
        second = (after_second[name] - 0.9 * after_first[name]) / 0.1
        torch.testing.assert_close(
            of_both[name] / 0.1, (first + second) / 2, rtol=1e-3, atol=1e-6 + 1e-4 * float(first.abs().max())
        )


@pytest.mark.slow
def test_finished_run_does_nothing(settings, uninterrupted):
    done = run(settings, uninterrupted)
    assert done.returncode == 0 and "trained 6 steps" in done.stdout


def test_finished_run_is_recognized_without_torch_and_its_settings_and_data_are_checked(
    settings, uninterrupted, tmp_path
):
    folder = uninterrupted / "a"
    (folder / "REQUEUE").write_text("SIGTERM after step 6\n")
    code = "import sys, train; code = train.run(train.TrainConfig, '', train.main); print('torch' in sys.modules, code)"
    arguments = command(settings, uninterrupted, "log_every_steps=3")[2:]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        f"resuming after step 6 of {folder}/checkpoints/step_00000006: steps=6 are done, there is nothing to do",
        f"trained 6 steps on 1 process: {folder}",
        "False 0",
    ], done.stderr
    assert not (folder / "REQUEUE").exists() and "log_every_steps: 3" in (folder / "config.yaml").read_text()
    other_data = settings_of_a_run(tmp_path / "data", [9, 9])[-1]
    done = run(settings, uninterrupted, other_data)
    assert done.returncode == 2 and "sources.second.data_set" in done.stderr, done.stderr


@pytest.mark.slow
def test_signals_after_the_last_step_do_not_end_a_complete_run(settings, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted / "a", tmp_path / "a")
    shutil.rmtree(tmp_path / "a/checkpoints/step_00000006")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command(settings, tmp_path), cwd=ROOT, env=environment, **pipes) as process:
        for line in process.stdout:
            if line.startswith("trained 6 steps"):
                break
        while process.poll() is None:  # until the interpreter has ended, which no longer handles signals by then
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.001)
        assert process.returncode == 0, process.stderr.read()
    assert not (tmp_path / "a/REQUEUE").exists()


def test_finished_run_with_a_damaged_checkpoint_trains_the_last_steps_again(settings, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted / "a", tmp_path / "a")
    (tmp_path / "a/checkpoints/step_00000006/model.safetensors").write_bytes(b"")
    done = run(settings, tmp_path)
    assert done.returncode == 0 and "resuming after step 5" in done.stdout, done.stderr
    assert_same_checkpoint(uninterrupted, tmp_path, 6)


def test_resuming_with_other_settings_is_one_line(settings, uninterrupted):
    done = run(settings, uninterrupted, "seed=5")
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1 and "seed: 0 -> 5" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_run_loads_weights_of_another_run_once(settings, uninterrupted, tmp_path):
    arguments = [
        f"init_checkpoint={uninterrupted}/a/checkpoints/step_00000003",
        "frozen_encoder_steps=0",
        "steps=1",
        "optim.lr=0",
    ]
    done = run(settings, tmp_path, *arguments)
    assert done.returncode == 0 and "initial weights: " in done.stdout, done.stderr
    taken, found = weights(uninterrupted, 3), weights(tmp_path, 1)
    assert all(
        torch.equal(value, found[name])
        for name, value in taken.items()
        if "running" not in name and "num_batches" not in name
    )
    done = run(settings, tmp_path, *arguments, "optim.schedule=constant")
    assert done.returncode == 0 and "resuming after step 1" in done.stdout and "initial weights: " not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.lrr=1"], "error: optim.lrr: unknown key 'lrr', did you mean lr?"),
        (["steps=many"], "error: steps="),
        (["optim.lr=-1"], "error: optim.lr=-1.0 must be 0 or more"),
        (["stream.sources.0.shards=nowhere"], "error: nowhere"),
        (["tracker=excel"], "error: tracker=excel: allowed are"),
        pytest.param(
            ["init_checkpoint=nowhere"], "error: init_checkpoint=nowhere: no model found", marks=pytest.mark.slow
        ),
        pytest.param(
            ["optim.groups=[{prefix: imag}]"],
            "error: optim.groups.0.prefix=imag: no such parameter or module",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_invalid_input_is_one_line(settings, tmp_path, arguments, message):
    done = run(settings, tmp_path, *arguments)
    lines = [line for line in done.stderr.splitlines() if line.strip() and "step/s" not in line and "0%" not in line]
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith(message), done.stderr


def test_incomplete_shards_are_one_line(tmp_path):
    copies = settings_of_a_run(tmp_path / "data")
    (tmp_path / "data/first/manifest.json").unlink()
    done = run(copies, tmp_path / "runs")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(tmp_path / "data/first") in done.stderr, (
        done.stderr
    )


@pytest.mark.slow
def test_compiled_encoders_resume_from_others_and_keep_weight_names(settings, uninterrupted, tmp_path):
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler for torch.compile on this machine")
    assert run(settings, tmp_path, "steps=2", "frozen_encoder_steps=0").returncode == 0
    done = run(settings, tmp_path, "steps=4", "frozen_encoder_steps=0", "compile=true", timeout=280)
    assert done.returncode == 0 and "resuming after step 2" in done.stdout, done.stderr
    assert weights(tmp_path, 4).keys() == weights(uninterrupted, 4).keys()
    plain = run(settings, tmp_path / "plain", "steps=4", "frozen_encoder_steps=0")
    assert plain.returncode == 0 and losses(tmp_path) == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)
    assert losses(tmp_path) != losses(tmp_path / "plain")


def test_compiling_without_a_compiler_is_one_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"compile=true: this machine has no C\+\+ compiler \(no-such-compiler\)"):
        compile_encoders(tiny_model(tiny_config()))


@pytest.mark.slow
def test_two_commands_cannot_write_the_same_run(settings, tmp_path):
    process = start(settings, tmp_path, "steps=100000", "checkpoint.keep_last=1")
    try:
        wait(lambda: steps_saved(tmp_path), process)
        done = run(settings, tmp_path)
        assert done.returncode == 2 and "is being written by another command" in done.stderr
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_two_processes_make_the_same_steps_as_one_and_either_resumes_the_other(settings, uninterrupted, tmp_path):
    (tmp_path / "two.yaml").write_text(TWO_PROCESSES)
    stopped = run(settings, tmp_path, "steps=4", accelerate=tmp_path / "two.yaml")
    assert stopped.returncode == 0, stopped.stderr
    assert "on 2 processes" in stopped.stdout
    assert losses(tmp_path) == pytest.approx(losses(uninterrupted)[:4], abs=2e-5)
    alone = run(settings, tmp_path)
    assert alone.returncode == 0 and "resuming after step 4" in alone.stdout, alone.stderr
    for name, value in weights(uninterrupted, 6).items():
        # Adam divides by the gradient's size, so rounding moves weights with a tiny gradient; a step is up to 1e-3.
        difference = (weights(tmp_path, 6)[name].double() - value.double()).abs()
        assert difference.max() < 3e-4 and (difference < 2e-5).double().mean() > 0.98, name


@pytest.mark.slow
def test_batch_size_not_divisible_by_processes_is_an_error(settings, tmp_path):
    (tmp_path / "two.yaml").write_text(TWO_PROCESSES)
    done = run(settings, tmp_path, "global_batch_size=7", accelerate=tmp_path / "two.yaml")
    assert done.returncode != 0 and "global_batch_size=7" in done.stderr
