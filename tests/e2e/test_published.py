"""The three published configurations: their values, and at full size with random weights, gradients and overfitting.

The slow tests take about 8 GB and some minutes each.
"""

import functools
import gc
import math
import os
from pathlib import Path

import pytest
import torch
import yaml
from paths import ROOT

from configs.load import load
from configs.schema import TrainConfig
from model.build import build_denseav
from model.denseav import DenseAV, InputSpec
from model.training.optim import build_optimizer, freeze_for_phase, learning_rate, remaining_phases, set_learning_rate
from model.training.step import derive_seed, forward_loss
from pipelines.stream.batch import Batch

NAMES = ("sound", "language", "sound_and_language")
RANDOM = ["model.image_weights=random", "model.audio_weights=random"]
# Reference 1.1, 1.3, 1.4, 1.5.
PUBLISHED = {
    "global_batch_size": 40, "frozen_encoder_steps": 3000, "steps": 1_000_001,
    "stream.image_size_px": 224, "stream.clip_duration_s": 10.2625, "stream.sample_rate_hz": 16_000,
    "stream.augment.crop_scale_min": 0.08, "stream.augment.flip_probability": 0.5, "stream.augment.color_jitter": 0.2,
    "stream.augment.grayscale_probability": 0.1, "stream.augment.quad_mixup_probability": 0.1,
    "stream.augment.audio_splice_min_s": 1.0, "stream.augment.audio_splice_max_s": 4.0,
    "stream.augment.audio_splice_fade_min_s": 0.5,
    "stream.augment.time_mask_probability": 0.5, "stream.augment.time_mask_min_s": 0.5,
    "model.image_encoder": "vit_small_patch8_224.dino", "model.lora_rank": 8, "model.lora_alpha": 32.0,
    "model.lora_dropout": 0.1,
    "model.audio_encoder": "hubert_large_ls960", "model.norm_eps": 1e-4, "model.image_weights": "pretrained",
    "model.audio_weights": "pretrained",
    "model.audio_projection": "conv_attention", "model.embed_dim": 384, "model.image_pool_size": 2,
    "model.similarity_aggregation": "misa", "model.head_aggregation": "max_elementwise", "model.clamp_nonneg": False,
    "model.add_cls_similarity": False,
    "loss.nonneg_pressure": 0.01, "loss.silence": 0.01, "loss.negative_audio": 0.01, "loss.tv": 0.01,
    "loss.logit_scale_floor": 0.1,
    "loss.head_specialization": 0.05, "loss.image_mixup": 0.1, "loss.disentangle": 0.0,
    "loss.num_sampled_positions": 250,
    "optim.name": "adam", "optim.eps": 1e-7, "optim.lr": 5e-5, "optim.schedule": "constant", "optim.warmup_steps": 1000,
    "optim.max_grad_norm_per_param": 10.0, "optim.adaptive_clip_factor": 5.0, "optim.adaptive_clip_window": 50,
}  # fmt: skip


def _file(name: str) -> Path:
    return ROOT / "configs/train" / f"{name}.yaml"


def _value(config: TrainConfig, key: str):
    return functools.reduce(getattr, key.split("."), config)


def _keys(settings: dict, prefix: str = ""):
    for key, value in settings.items():
        yield from _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]


@pytest.mark.parametrize(
    ("name", "heads", "sources"),
    [(NAMES[0], 1, ["audioset"]), (NAMES[1], 1, ["places_audio"]), (NAMES[2], 2, ["audioset", "places_audio"])],
)
def test_published_configuration_has_the_published_values(name, heads, sources):
    config = load(TrainConfig, [f"config={_file(name)}"])
    assert {key: _value(config, key) for key in PUBLISHED} == PUBLISHED
    assert config.model.num_heads == heads and [source.name for source in config.stream.sources] == sources
    assert {source.weight for source in config.stream.sources} == {1.0}  # equal probability


@pytest.mark.parametrize("name", NAMES)
def test_published_file_has_differences_only_and_starts_with_its_command(name):
    text = _file(name).read_text()
    default = load(TrainConfig)
    assert [
        key
        for key in _keys(yaml.safe_load(text))
        if _value(load(TrainConfig, [f"config={_file(name)}"]), key) == _value(default, key)
    ] == []
    command = " ".join(line.removeprefix("#").strip() for line in text.splitlines()[:2])
    assert command.startswith("accelerate launch ")
    assert command.endswith(f" train.py config=configs/train/{name}.yaml name={name}")


@pytest.fixture
def both_cores():
    """Use both cores: full-size models take minutes on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count())
    yield
    torch.set_num_threads(before)
    gc.collect()  # one model at a time


def _model(config: TrainConfig) -> DenseAV:
    torch.manual_seed(0)
    return build_denseav(
        config.model,
        InputSpec(config.stream.image_size_px, config.stream.clip_duration_s, config.stream.sample_rate_hz),
    ).train()


def _batch(config: TrainConfig, pairs: int) -> Batch:
    """Images of one color and tones of one pitch, in noise, with silence, splices, mixed images and two sources."""
    px, samples = config.stream.image_size_px, round(config.stream.clip_duration_s * config.stream.sample_rate_hz)
    color = 114 + 115 * torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])[:pairs, :, None, None]
    pitch_hz = torch.tensor([150.0, 500.0, 1500.0, 4500.0])[:pairs, None]
    mask = torch.ones(pairs, samples, dtype=torch.bool)
    mask[:, samples * 4 // 5 :] = False
    positive_weight, image_weight = torch.ones(pairs, samples), torch.ones(pairs, px, px)
    positive_weight[:, samples // 4 : samples // 2] = 0
    image_weight[::2, : px // 2] = 0
    tone = 0.3 * torch.sin(2 * math.pi * pitch_hz * torch.arange(samples) / config.stream.sample_rate_hz)
    waveform = mask * (tone + 0.01 * torch.randn(pairs, samples))
    frames = (color + 17 * torch.randn(pairs, 3, px, px)).clamp(0, 255).to(torch.uint8)
    return Batch(
        frames,
        waveform,
        mask,
        positive_weight,
        image_weight,
        torch.arange(pairs) % 2,
        list("abcd")[:pairs],
        [-1] * pairs,
    )


def _without_gradient_by_construction(name: str) -> bool:
    """The bias of the keys adds the same value to all logits of a softmax, so its gradient is rounding error."""
    return name.endswith(".attention.k_proj.bias")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("both_cores")
def test_after_two_full_steps_exactly_the_learning_parameters_have_a_gradient(name):
    """Published sizes (224 px, 10.2625 s) but 2 pairs, fewer positions and gradient checkpointing, for 8 GB."""
    settings = [
        "optim.warmup_steps=2",
        "loss.num_sampled_positions=20",
        "model.gradient_checkpointing=true",
        "steps=3",
        "frozen_encoder_steps=1",
    ]
    config = load(TrainConfig, [f"config={_file(name)}", *RANDOM, *settings])
    model = _model(config)
    learnable = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    projections = {id(parameter) for parameter in model.projection_parameters()}
    batch = _batch(config, pairs=2)
    for phase in remaining_phases(0, config.frozen_encoder_steps, config.steps):
        freeze_for_phase(model, phase.name, learnable)
        optimizer = build_optimizer(config.optim, model)
        for step in range(phase.start, phase.stop):
            optimizer.zero_grad()
            set_learning_rate(optimizer, learning_rate(config.optim, step - phase.first, phase.stop - phase.first))
            output = forward_loss(model, batch, model.similarity_config, config.loss, derive_seed(0, step))
            output.loss.backward()
            largest = {
                name: float("nan") if p.grad is None else p.grad.abs().max().item()
                for name, p in model.named_parameters()
                if p.requires_grad
            }
            frozen = [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
            if step < config.steps - 1:
                optimizer.step()
        if phase.name == "projections":
            assert largest.keys() == {
                name for name, p in model.named_parameters() if name in learnable and id(p) in projections
            }
        assert frozen == []

    assert all(term.item() > 0 for name, term in output.terms.items() if name != "logit_scale_floor"), output.terms
    assert ("head_specialization" in output.terms) == (config.model.num_heads > 1)
    assert largest.keys() == learnable
    assert [name for name, size in largest.items() if not 0 < size < math.inf] == []
    # The smallest others are LoRA's first matrices, 2e-5, after one step of the second ones from zero. Rounding: 1e-9.
    assert [name for name, size in largest.items() if size < 1e-7 and not _without_gradient_by_construction(name)] == []
    rounding = {
        name: size / largest[name.replace("k_proj", "q_proj")]
        for name, size in largest.items()
        if _without_gradient_by_construction(name)
    }
    assert len(rounding) == 24 and max(rounding.values()) < 1e-4, rounding


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.usefixtures("both_cores")
def test_full_size_model_overfits_four_pairs():
    """All terms and parameters; no dropout, short clips and small images for speed, a fifth of the learning rate."""
    settings = [
        "optim.lr=1e-5",
        "optim.warmup_steps=5",
        "loss.num_sampled_positions=20",
        "stream.image_size_px=112",
        "stream.clip_duration_s=1.28",
    ]
    config = load(TrainConfig, [f"config={_file('sound_and_language')}", *RANDOM, *settings])
    model = _model(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = build_optimizer(config.optim, model)
    batch = _batch(config, pairs=4)
    curve = []
    while len(curve) < 60 and not (curve and curve[-1] < 0.07):
        set_learning_rate(optimizer, learning_rate(config.optim, len(curve), config.steps))
        optimizer.zero_grad()
        output = forward_loss(model, batch, model.similarity_config, config.loss, derive_seed(0, len(curve)))
        output.loss.backward()
        optimizer.step()
        curve.append(output.terms["info_nce"].item())
    print("info_nce:", *(f"{value:.3f}" for value in curve))
    del optimizer
    with torch.no_grad():
        output = forward_loss(model.eval(), batch, model.similarity_config, config.loss, 0)
    assert curve[-1] < 0.07 and output.terms["info_nce"] < 0.2 < math.log(4), (curve, output.terms)
    for scores in (output.scores, output.scores.T):
        assert scores.argmax(dim=1).tolist() == [0, 1, 2, 3]
