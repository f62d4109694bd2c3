"""Build the model of a run, ready to be trained: on its device, with initial weights, sharded or compiled."""

import dataclasses
from collections.abc import Sequence

import torch
from accelerate import Accelerator

from configs.schema import TrainConfig
from model.build import build_denseav, check_input_sizes
from model.denseav import DenseAV
from model.encoders.pretrained import RANDOM
from model.inputs import InputSpec
from model.training.ema import ModelEma
from model.training.flops import ideal_s_per_clip_by_phase
from model.training.fsdp import shard_model
from model.training.init_weights import load_init_weights
from model.training.optim import Phase
from model.training.torch_compile import compile_encoders


def build_training_model(
    config: TrainConfig, accelerator: Accelerator, phases: Sequence[Phase], is_resumed: bool, fsdp: bool
) -> tuple[DenseAV, frozenset[str], ModelEma | None, dict[str, float | None]]:
    """Build the model with the weights a fresh run starts with.

    Args:
        config: settings of the run.
        accelerator: its device and precision are used.
        phases: the remaining phases.
        is_resumed: the weights will be restored from a checkpoint, so that none are downloaded here.
        fsdp: shard the model.

    Returns:
        The model; names of the parameters that learn in the phase `full`; the moving average of the weights, if any;
        and `ideal_s_per_clip` of each phase.

    Raises:
        ValueError: the model cannot be built, or the inputs are too small for it.
    """
    torch.manual_seed(config.seed)
    random = dataclasses.replace(config.model, image_weights=RANDOM, audio_weights=RANDOM)
    inputs = InputSpec(config.stream.image_size_px, config.stream.clip_duration_s, config.stream.sample_rate_hz)
    model = build_denseav(random if is_resumed or config.init_checkpoint else config.model, inputs)
    if config.init_checkpoint and not is_resumed:
        weights = load_init_weights(model, config.init_checkpoint, config.init_exclude)
        accelerator.print(f"initial weights: {weights}")
    learnable = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    check_input_sizes(model.to(accelerator.device))
    ideal_s_per_clip = ideal_s_per_clip_by_phase(
        model, [phase.name for phase in phases], learnable, accelerator.num_processes
    )
    if fsdp:
        shard_model(model, accelerator.mixed_precision)
    ema = ModelEma(model, config.optim.ema_decay) if config.optim.ema_decay else None
    if config.compile:
        compile_encoders(model)
    return model, learnable, ema, ideal_s_per_clip
