"""Logging: trackers, history, throughput, FLOPs, gradient norms, TensorBoard."""

import json
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from paths import ROOT
from tiny_training import backward, tiny_config, tiny_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from configs.load import load
from configs.schema import ModelConfig, TrainConfig
from model.build import build_denseav
from model.denseav import InputSpec
from model.training import throughput
from model.training.flops import clip_flops, ideal_s_per_clip, peak_flops
from model.training.optim import freeze_for_phase
from model.training.throughput import ThroughputMeter, gradient_norms
from model.training.tracking import History, Media, RunLogger, tracker_names
from pipelines.stream.batch import HostBatch

# ---------------------------------------------------------------------------------------------- trackers


def test_unknown_and_missing_trackers_are_errors(monkeypatch):
    assert tracker_names("none") == [] and tracker_names("tensorboard") == ["tensorboard"]
    with pytest.raises(ValueError, match="tracker=mlflow: allowed are wandb, tensorboard, none"):
        load(TrainConfig, ["tracker=mlflow"])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="tracker=tensorboard: the package tensorboard is not installed"):
        tracker_names("tensorboard")


@pytest.mark.parametrize(
    ("key", "netrc", "mode"),
    [("", "", "offline"), ("k" * 40, "", None), ("", "machine api.wandb.ai login user password secret", None)],
)
def test_wandb_is_offline_only_without_a_key(monkeypatch, tmp_path, key, netrc, mode):
    import os

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text(netrc)
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.delenv("WANDB_MODE")
    assert tracker_names("wandb") == ["wandb"]
    assert os.environ.get("WANDB_MODE") == mode


def _accelerator(folder, tracker):
    from accelerate import Accelerator

    return Accelerator(cpu=True, log_with=tracker_names(tracker) or None, project_dir=folder)


def test_tensorboard_has_values_images_and_settings_and_hides_repeated_steps(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_config("tracker=tensorboard", "steps=9")
    image = np.zeros((8, 6, 3), np.uint8)
    for start, steps in ((0, (1, 2, 3)), (1, (2, 3))):
        with RunLogger(_accelerator(tmp_path, "tensorboard"), config, tmp_path, start) as log:
            for step in steps:
                log.add(step, {"loss/total": step + start / 10})
            log.log_media(steps[-1], Media({"task/heatmaps": image}))
        time.sleep(1.1)  # event files are named by the second
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, round(event.value, 3)) for event in events.Scalars("loss/total")] == [
        (1, 1.0),
        (2, 2.1),
        (3, 3.1),
    ]
    assert [(event.step, event.width, event.height) for event in events.Images("task/heatmaps")] == [(3, 6, 8)]
    assert b"embed_dim: 16" in events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]
    assert [json.loads(line)["step"] for line in (tmp_path / "history.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_progress_bar_shows_loss_speed_and_data_time(tmp_path, capsys):
    with RunLogger(_accelerator(tmp_path, "none"), tiny_config("steps=4"), tmp_path, 0) as log:
        log.step()
        log.add(1, {"loss/total": 1.23456, "clips_per_s": 41.6, "data_time_fraction": 0.021})
        log.add(1, {"eval/a/b/c": 0.5})
    assert "1/4" in (err := capsys.readouterr().err) and "loss 1.235  42 clips/s  data 2%" in err


def test_failing_tracker_is_one_warning_and_the_history_continues(tmp_path, capsys):
    accelerator = _accelerator(tmp_path, "tensorboard")
    with RunLogger(accelerator, tiny_config("tracker=tensorboard", "steps=4"), tmp_path, 0) as log:
        accelerator.trackers[0].writer = None
        for step in (1, 2):
            log.add(step, {"loss/total": 1.0})
            log.log_media(step, Media({"a": np.zeros((2, 2, 3), np.uint8)}))
    assert capsys.readouterr().err.count("warning: tracker=tensorboard failed") == 1
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2


def test_small_numbers_keep_their_digits_in_the_history(tmp_path):
    History(tmp_path / "h.jsonl", 0).add(1, {"lr": 1.23456789e-7})
    assert json.loads((tmp_path / "h.jsonl").read_text())["lr"] == 1.234568e-7


# ---------------------------------------------------------------------------------------------- meter


@pytest.fixture
def clock(monkeypatch):
    """The time that the meter reads: `clock.now_s`."""
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: clock.now_s))
    return clock


def _batch(rejected):
    return HostBatch({}, torch.zeros(5), ["x"] * 5, [0] * 5, Counter(rejected))


def test_meter_measures_speed_data_time_memory_and_rejected_clips(clock):
    measured = ThroughputMeter(clips_per_step=10)
    measured.ideal_s_per_clip = 0.001
    for rejected in ({"bad_audio": 1}, {"bad_audio": 2, "cut_off": 1}):
        with measured.data_timer():
            clock.now_s += 0.03
        clock.now_s += 0.07
        measured.add([_batch(rejected)])
    values = measured.read()
    assert values["clips_per_s"] == pytest.approx(20 / 0.2) and values["data_time_fraction"] == pytest.approx(0.3)
    assert values["mfu"] == pytest.approx(values["clips_per_s"] / 1000)
    assert values["rejected/bad_audio"] == 3 and values["rejected/cut_off"] == 1
    assert 0.1 < values["memory/host_gb"] < 50 and ("memory/device_gb" in values) == torch.cuda.is_available()
    clock.now_s += 0.5
    measured.add([_batch({})])
    again = measured.read()
    assert again["clips_per_s"] == pytest.approx(20) and again["data_time_fraction"] == 0
    assert not any(key.startswith("rejected") for key in again)


def test_evaluation_time_does_not_count_as_training(clock):
    measured = ThroughputMeter(clips_per_step=1)
    measured.add([_batch({"cut_off": 1})])
    with measured.data_timer():
        clock.now_s += 30
    measured.restart()
    clock.now_s += 0.5
    measured.add([_batch({})])
    values = measured.read()
    assert values["clips_per_s"] == pytest.approx(2) and values["data_time_fraction"] == 0
    assert values["rejected/cut_off"] == 1 and "mfu" not in values


def test_gradient_norms_are_per_module():
    model = tiny_model(tiny_config())
    assert gradient_norms(model) == {}
    backward(model, 0)
    norms = gradient_norms(model)
    assert set(norms) == {
        f"grad_norm/{part}"
        for part in ("image_encoder", "audio_encoder", "image_projection", "audio_projection", "log_scale")
    }
    by_hand = sum(parameter.grad.double().square().sum() for parameter in model.audio_encoder.parameters()).sqrt()
    assert norms["grad_norm/audio_encoder"] == pytest.approx(by_hand.item(), rel=1e-5)
    everything = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert sum(norm**2 for norm in norms.values()) ** 0.5 == pytest.approx(everything.item(), rel=1e-5)


# ---------------------------------------------------------------------------------------------- FLOPs

VIT = {
    "image_encoder": "vit_tiny_patch16_224",
    "image_weights": "random",
    "embed_dim": 24,
    "audio_projection": "linear",
    "image_pool_size": 1,
}


def _counted(model):
    """FLOPs per pair that torch counts in a real forward and backward pass of two pairs."""
    inputs = model.inputs
    counter = FlopCounterMode(display=False)
    with counter:
        image = model.encode_image(
            torch.zeros(2, 3, inputs.image_size_px, inputs.image_size_px, dtype=torch.uint8)
        ).dense
        audio = model.encode_audio(torch.randn(2, 10240), torch.ones(2, 10240, dtype=torch.bool)).dense
        (image.sum() + audio.sum()).backward()
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora_rank": 4, "lora_dropout": 0.0}, {"image_encoder": "tiny"}],
    ids=["all learn", "adapters", "tiny"],
)
@pytest.mark.parametrize("phase", ["projections", "full"])
def test_clip_flops_equal_those_of_a_real_pass(changes, phase):
    model = build_denseav(ModelConfig(**VIT | changes), InputSpec(64, 0.64, 16000)).train()
    freeze_for_phase(model, phase, frozenset(name for name, p in model.named_parameters() if p.requires_grad))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        counted = _counted(model)
    assert clip_flops(model) == pytest.approx(counted, rel=1e-6)
    assert next(model.parameters()).device.type == "cpu" and model.training


def test_recomputation_by_gradient_checkpointing_does_not_count():
    inputs = InputSpec(64, 0.64, 16000)
    plain, checkpointed = (
        build_denseav(ModelConfig(**VIT, gradient_checkpointing=again), inputs) for again in (False, True)
    )
    assert clip_flops(plain) == clip_flops(checkpointed) < _counted(checkpointed.train())
    assert checkpointed.image_encoder.model.grad_checkpointing


def test_layer_costs_two_flops_per_product_forward_and_four_backward():
    from model.denseav import DenseAV, SimilarityConfig
    from model.encoders.encoder import Encoder, ImageEncoder

    class Patches(ImageEncoder):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 8, 4, 4)

        def encode_normalized(self, frames):
            return self.layer(frames), None

    class Grouped(Encoder):
        def __init__(self):
            super().__init__()
            self.first, self.layer = nn.Conv1d(1, 16, 10, 10), nn.Conv1d(16, 16, 5, padding=2, groups=4)

        def forward(self, waveform):
            return self.layer(self.first(waveform[:, None])), None

    class AsItIs(nn.Module):
        def forward(self, dense, cls):
            return dense, cls

    model = DenseAV(Patches(), Grouped(), AsItIs(), AsItIs(), 1, 1, InputSpec(32, 0.1, 16000), SimilarityConfig())
    image, first, grouped = 64 * 3 * 16 * 8, 160 * 10 * 16, 160 * 5 * 4 * 16
    assert clip_flops(model) == 2 * (2 * image + 2 * first + 3 * grouped)  # no gradient of the inputs
    model.audio_encoder.requires_grad_(False)
    assert clip_flops(model) == 2 * (2 * image + first + grouped)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("Tesla V100-PCIE-32GB", 112),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla T4", 65),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_peak_flops_are_found_by_gpu_name(name, tflops):
    assert peak_flops(name) == tflops * 1e12


def test_other_devices_have_no_known_peak():
    assert [peak_flops(name) for name in ("NVIDIA T400", "NVIDIA L40", "Radeon", "NVIDIA GH200 480GB")] == [None] * 4
    assert ideal_s_per_clip(tiny_model(tiny_config()), 1) is None


@pytest.mark.slow
def test_published_model_has_the_documented_flops():
    """By hand: 24 layers of 12 x 1024^2 weights and attention over 512 steps, forward. Needs 1.5 GB."""
    code = """
from configs.load import load
from configs.schema import TrainConfig
from model.build import build_denseav
from model.denseav import InputSpec
from model.training.flops import clip_flops
random = ["model.image_weights=random", "model.audio_weights=random"]
config = load(TrainConfig, ["config=configs/train/sound_and_language.yaml", *random])
model = build_denseav(config.model, InputSpec(224, 10.2625, 16000))
print(clip_flops(model))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    flops = float(done.stdout)
    transformer = 24 * (2 * 12 * 1024**2 * 512 + 4 * 512**2 * 1024)
    assert 3 * transformer < flops < 1.35 * 3 * transformer and flops == pytest.approx(1.2867e12, rel=1e-3)
