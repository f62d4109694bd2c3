"""Training with FSDP in two real CPU processes has the losses, metrics and checkpoints of one process."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from tiny_evaluation import write_evaluation
from tiny_runs import (
    FLOAT64,
    ROOT,
    assert_same_checkpoint,
    losses,
    processes_of,
    run,
    start,
    steps_saved,
    wait,
    weights,
)

from model.hub import from_pretrained

TWO = {
    "accelerate": ROOT / "configs/accelerate/fsdp.yaml",
    "launch": ("--num_processes", "2", "--mixed_precision", "no"),
}
ALL_FILES = ("model", "optimizer", "clipping", "ema")
EVERYTHING = [
    "optim.ema_decay=0.9",
    "optim.adaptive_clip_factor=1.5",
    "optim.adaptive_clip_window=11",
    "stream.augment.time_mask_probability=0.3",
]


@pytest.fixture
def float64(tmp_path):
    (tmp_path / "float64.py").write_text(FLOAT64.format(root=str(ROOT)))
    return {"script": tmp_path / "float64.py"}


def _done(*arguments, **keywords):
    """The output of a run that succeeds."""
    done = run(*arguments, **keywords)
    assert done.returncode == 0, done.stderr
    assert f"on {2 if 'accelerate' in keywords else 1} process" in done.stdout
    return done.stdout


def _assert_near(one, other, step, tolerance):
    for file in ALL_FILES:
        expected, found = weights(one, step, file), weights(other, step, file)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert value.dtype == found[name].dtype and value.shape == found[name].shape, (file, name)
            assert (value.double() - found[name].double()).abs().max() <= tolerance, (file, name)


@pytest.mark.slow
def test_twenty_steps_equal_those_of_one_process_in_float64(settings, float64, tmp_path):
    arguments = [
        *EVERYTHING,
        "steps=20",
        "frozen_encoder_steps=8",
        "gradient_accumulation_steps=2",
        "checkpoint.every_steps=100",
    ]
    found = []
    # Pair p is on rank p mod 2, so chunks have the same pairs, and batch normalization per chunk is the same.
    for number, (grad_cache_chunk_size, more) in enumerate(((4, {}), (2, TWO))):
        output = _done(
            settings,
            tmp_path / str(number),
            *arguments,
            f"grad_cache_chunk_size={grad_cache_chunk_size}",
            **float64,
            **more,
        )
        found.append([float(line.split()[1]) for line in output.splitlines() if line.startswith("LOSS")])
    assert len(found[0]) == 20 and len(set(found[0])) == 20
    assert found[1] == pytest.approx(found[0], rel=0, abs=1e-9)
    _assert_near(tmp_path / "0", tmp_path / "1", 20, 1e-9)


@pytest.mark.slow
def test_one_process_resumes_an_fsdp_run_and_fsdp_resumes_one_process(settings, float64, tmp_path):
    for steps, more in ((2, TWO), (4, {}), (6, TWO)):  # the phase changes after step 3
        _done(settings, tmp_path / "turns", *EVERYTHING, f"steps={steps}", **float64, **more)
    _done(settings, tmp_path / "alone", *EVERYTHING, **float64)
    _assert_near(tmp_path / "alone", tmp_path / "turns", 6, 1e-9)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_and_stopped_fsdp_run_resumes_bit_identically(settings, tmp_path):
    more = [*EVERYTHING, "steps=40", "frozen_encoder_steps=15", "checkpoint.every_steps=2", "checkpoint.keep_last=3"]
    uninterrupted, out = tmp_path / "uninterrupted", tmp_path / "out"
    _done(settings, uninterrupted, *more, **TWO)
    launcher = start(settings, out, *more, **TWO)
    wait(lambda: max(steps_saved(out), default=0) > 6, launcher)
    for pid in (launcher.pid, *processes_of(out)):
        os.kill(pid, signal.SIGKILL)
    launcher.wait()
    launcher = start(settings, out, *more, "checkpoint.every_steps=100", **TWO)
    history = out / "a/history.jsonl"
    wait(lambda: '"step": 18,' in history.read_text(), launcher)
    os.kill(processes_of(out)[-1], signal.SIGTERM)
    assert launcher.wait(120) != 0
    step = int((out / "a/REQUEUE").read_text().removeprefix("SIGTERM after step "))
    assert 18 <= step < 40 and step in steps_saved(out)
    assert f"resuming after step {step}" in _done(settings, out, *more, **TWO)
    assert losses(out) == losses(uninterrupted) and len(losses(out)) == 40
    assert_same_checkpoint(uninterrupted, out, 40, ALL_FILES)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_periodic_evaluation_equals_that_of_the_exported_checkpoint(settings, tmp_path):
    world, out = write_evaluation(tmp_path / "world"), tmp_path / "out"
    output = _done(settings, out, *EVERYTHING, f"evaluate.config={world}", "evaluate.every_steps=3", **TWO)
    assert "warning" not in output and (out / "a/heatmap.mp4").exists()  # rendered by one rank
    lines = [json.loads(line) for line in (out / "a/history.jsonl").read_text().splitlines()]
    for step in (3, 6):
        export, found = (
            tmp_path / f"export{step}",
            {key: value for line in lines if line["step"] == step for key, value in line.items() if key[:5] == "eval/"},
        )
        checkpoint = out / f"a/checkpoints/step_{step:08d}"
        for command in (
            ["model.export", f"checkpoint={checkpoint}"],
            ["eval.run", f"config={world}", f"checkpoint={export}", "baselines=[]", "video="],
        ):
            # One thread, as on each rank: scores 1e-8 apart change places with the order of sums.
            one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, "-m", *command, f"out={export}"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                env=one_thread,
            )
            assert done.returncode == 0, done.stderr
        model = from_pretrained(checkpoint)
        assert all(torch.equal(value, weights(out, step, "ema")[name]) for name, value in model.state_dict().items())
        measured = json.loads((export / "metrics.json").read_text())["metrics"]
        assert len(measured) > 10 and {key: found[f"eval/{key}"] for key in measured} == pytest.approx(
            measured, abs=1e-6
        )


@pytest.mark.slow
def test_bf16_is_as_close_to_full_precision_as_on_one_process(settings, tmp_path):
    _done(settings, tmp_path / "full")
    _done(settings, tmp_path / "half", **TWO | {"launch": ("--num_processes", "2", "--mixed_precision", "bf16")})
    full, half = losses(tmp_path / "full"), losses(tmp_path / "half")
    assert half != full and half[:4] == pytest.approx(full[:4], rel=0.03)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_layers_resume_from_others_with_the_same_losses(settings, tmp_path):
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler for torch.compile on this machine")
    more = ["frozen_encoder_steps=0", "grad_cache_chunk_size=2"]
    _done(settings, tmp_path / "plain", "steps=4", *more, **TWO)
    _done(settings, tmp_path / "compiled", "steps=2", *more, **TWO)
    _done(settings, tmp_path / "compiled", "steps=4", *more, "compile=true", timeout=500, **TWO)
    plain, compiled = losses(tmp_path / "plain"), losses(tmp_path / "compiled")
    assert compiled == pytest.approx(plain, rel=1e-3) and compiled[:2] == plain[:2]
    assert weights(tmp_path / "compiled", 4).keys() == weights(tmp_path / "plain", 4).keys()


@pytest.mark.slow
def test_unsupported_accelerate_setting_is_one_line(settings, tmp_path):
    done = run(
        settings, tmp_path, accelerate=TWO["accelerate"], launch=(*TWO["launch"], "--fsdp_offload_params", "true")
    )
    output = {line for line in done.stderr.splitlines() if line.startswith("error: ")}
    assert done.returncode == 1
    assert output == {
        "error: fsdp_offload_params=true (from the accelerate configuration): allowed is false, "
        "as in configs/accelerate/fsdp.yaml"
    }
