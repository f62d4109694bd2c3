"""FSDP in two real CPU processes: each holds half of the weights; metrics and checkpoints as of one process."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny_evaluation import write_evaluation
from tiny_runs import (
    FLOAT64,
    ROOT,
    assert_same_checkpoint,
    losses,
    processes_of,
    run,
    settings_of_a_run,
    start,
    steps_saved,
    wait,
    weights,
)
from tiny_training import tiny_config, tiny_model

from model.hub import from_pretrained
from model.training.fsdp import shard_model
from model.training.launch import fsdp_requested

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


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return settings_of_a_run(tmp_path_factory.mktemp("data"))


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


# ---------------------------------------------------------------------------------------------- parts


RANKS = """
import sys
import torch
from safetensors.torch import save_file
from tiny_batch import rows, tiny_batch
from torch import distributed

from configs.schema import LossConfig, ModelConfig, OptimConfig
from model.build import build_denseav
from model.denseav import InputSpec
from model.training.clipping import build_gradient_clipper
from model.training.throughput import gradient_norms
from model.training.optim import build_optimizer
from model.training.dtensor import local_shard, full_tensor
from model.training.fsdp import shard_model, sync_unsharded_grads
from model.training.step import forward_loss

VIT = {"image_encoder": "vit_tiny_patch16_224"}
RANDOM = {"image_weights": "random", "audio_weights": "random"}
CASES = {
    "LoRA, speech transformer": (VIT | {"lora_rank": 2, "lora_dropout": 0.0, "audio_encoder": "wav2vec2_base"}, 0),
    "checkpointing": (VIT | {"audio_encoder": "mel:vit_tiny_patch16_224", "gradient_checkpointing": True}, 0),
    "chunks": (VIT | {"audio_encoder": "mel:vit_tiny_patch16_224"}, 1),
    "poolings": ({"num_heads": 1, "similarity_aggregation": "simpool", "logit_bias": True}, 0),
}
torch.set_default_dtype(torch.float64)
distributed.init_process_group("gloo")
rank, ranks = distributed.get_rank(), distributed.get_world_size()
results = {}
for name, (changes, grad_cache_chunk_size) in CASES.items():
    torch.manual_seed(0)
    settings = {"embed_dim": 24, "num_heads": 2, "image_pool_size": 1} | RANDOM | changes
    model = build_denseav(ModelConfig(**settings), InputSpec(32, 1.6, 16_000)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):  # ranks draw different masks
            module.p = 0.0
        if type(module).__name__ == "SelfAttention":
            module.dropout = 0.0
        if type(module).__name__ == "Transformer":
            del module.layers[2:]
    count = sum(parameter.numel() for parameter in model.parameters())
    shard_model(model, "no")
    held = sum(local_shard(parameter).untyped_storage().nbytes() for parameter in model.parameters()) / 8
    config = OptimConfig(lr=1e-3, weight_decay=0.01, max_grad_norm_per_param=1e-3)
    optimizer, clipping = build_optimizer(config, model), build_gradient_clipper(config, model)
    loss = LossConfig(num_sampled_positions=20, objective="info_nce" if model.bias is None else "siglip")
    for step in range(2):
        batch = rows(tiny_batch(4, 32, 25600), slice(rank, None, ranks))
        batch.frames, batch.waveform = batch.frames.double(), batch.waveform.double()
        output = forward_loss(model, batch, model.similarity_config, loss, 3, grad_cache_chunk_size)
        output.loss.backward()
        sync_unsharded_grads(model)
        parameters = [(key, p) for key, p in model.named_parameters() if p.grad is not None]
        found = {f"gradient|{key}": full_tensor(p.grad).clone() for key, p in parameters}
        found |= {f"norm|{key}": torch.tensor(value) for key, value in gradient_norms(model).items()}
        found["norm"] = clipping.clip()
        optimizer.step()
        optimizer.zero_grad()
        found |= {f"weight|{key}": full_tensor(tensor.detach()) for key, tensor in model.state_dict().items()}
        results |= {f"{name}|{step}|{key}": tensor.contiguous().clone() for key, tensor in found.items()}
    results[f"{name}|held weights"] = torch.tensor(held / count)
    moments = sum(local_shard(s["exp_avg"]).numel() for s in optimizer.state.values())
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    results[f"{name}|held moments"] = torch.tensor(moments / learning)
if rank == 0:
    save_file(results, sys.argv[1])
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_all_encoders_equal_one_process_and_each_rank_holds_half(tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}", "OMP_NUM_THREADS": "1"}
    found = []
    for ranks in (1, 2):
        launch = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={ranks}",
            str(tmp_path / "ranks.py"),
        ]
        done = subprocess.run(
            [*launch, str(tmp_path / str(ranks))],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=290,
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr, done.stderr
        found.append(load_file(tmp_path / str(ranks)))
    one, two = found
    assert one.keys() == two.keys() and len(one) > 100
    for name, value in one.items():
        if "held" in name:
            assert value == 1 and 0.5 <= two[name] < 0.53, (name, two[name])
        else:
            assert (two[name] - value).abs().max() <= 1e-12 + 1e-10 * value.abs().max(), name


def test_unsupported_fsdp_settings_are_errors(monkeypatch):
    assert not fsdp_requested()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert fsdp_requested()
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(ValueError, match=r"fsdp_offload_params=true .* allowed is false"):
        fsdp_requested()
    with pytest.raises(ValueError, match="mixed_precision=fp16 with distributed_type=FSDP: allowed are bf16 and no"):
        shard_model(tiny_model(tiny_config()), "fp16")
