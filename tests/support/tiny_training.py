"""A tiny model with its training state, and gradients without data."""

import torch

from configs.load import load
from configs.schema import TrainConfig
from model.build import build_denseav
from model.denseav import InputSpec
from model.training.checkpoint import TrainingState, snapshot, write
from model.training.clipping import build_gradient_clipper
from model.training.ema import ModelEma
from model.training.optim import build_optimizer

TINY = [
    "model.embed_dim=16",
    "model.num_heads=2",
    "model.audio_projection=linear",
    "model.image_pool_size=1",
    "tracker=none",
]
INPUTS = InputSpec(image_size_px=32, clip_duration_s=0.64, sample_rate_hz=16000)


def tiny_config(*arguments: str) -> TrainConfig:
    given = {argument.split("=")[0] for argument in arguments}
    return load(TrainConfig, [*(argument for argument in TINY if argument.split("=")[0] not in given), *arguments])


def tiny_model(config: TrainConfig, seed: int = 0):
    torch.manual_seed(seed)
    return build_denseav(config.model, INPUTS)


def backward(model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image, audio, calibration = model(
        torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator),
        torch.randn(2, 10240, generator=generator),
        torch.ones(2, 10240, dtype=torch.bool),
    )
    (image.dense.square().mean() + audio.dense.square().mean() + calibration.log_scale.exp()).backward()


def tiny_state(config: TrainConfig, seed: int = 0, scaler=None) -> TrainingState:
    model = tiny_model(config, seed)
    ema = ModelEma(model, config.optim.ema_decay) if config.optim.ema_decay else None
    return TrainingState(
        model, build_optimizer(config.optim, model), build_gradient_clipper(config.optim, model), ema, scaler
    )


def step(state: TrainingState, number: int) -> None:
    """Make one training step, the same for the same number."""
    backward(state.model, number)
    state.clipping.clip()
    state.optimizer.step()
    state.optimizer.zero_grad()
    if state.ema:
        state.ema.update(state.model, number + 1)


def save(root, number: int, state: TrainingState, config: TrainConfig, fingerprint=None, metrics=None):
    return write(root, snapshot(number, "full", state, config, fingerprint or {}, metrics))
