"""The optimizer of a phase: which parameters learn, parameter groups, and the learning rate schedule."""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from configs.schema import OptimConfig
from configs.schema_check import check_choices
from model.denseav import DenseAV


class Phase(NamedTuple):
    """Steps `start` to `stop` (exclusive) with one set of learning parameters; the whole phase starts at `first`."""

    name: str
    first: int
    start: int
    stop: int


def remaining_phases(step: int, frozen_encoder_steps: int, steps: int) -> list[Phase]:
    """The phases left after `step` finished steps: `projections` (only projections and scale learn), then `full`."""
    switch = min(frozen_encoder_steps, steps)
    phases = [Phase("projections", 0, step, switch), Phase("full", switch, max(step, switch), steps)]
    return [phase for phase in phases if phase.start < phase.stop]


def freeze_for_phase(model: DenseAV, phase: str, learnable: frozenset[str]) -> None:
    """Require gradients of the parameters that learn in this phase, and of no others.

    Args:
        learnable: names of the parameters that learn in `full`: all that the model itself did not freeze when it was
            built (unused class-token layers, a backbone with LoRA).
    """
    projections = {id(p) for p in model.projection_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learnable and (phase == "full" or id(parameter) in projections))


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build Adam or AdamW over the parameters that require a gradient. Vectors and scalars have no weight decay.

    Each parameter group has a `lr_mult`, see `set_learning_rate`.

    Raises:
        ValueError: unknown optimizer or schedule, invalid betas, or a group whose prefix no parameter has.
    """
    check_choices(config, "optim.")
    if len(config.betas) != 2 or not all(0 <= beta < 1 for beta in config.betas):
        raise ValueError(f"optim.betas={config.betas}: must be two numbers, at least 0 and below 1")
    names = [name for name, _ in model.named_parameters()]
    for number, group in enumerate(config.groups):
        if not any(is_under(name, group.prefix) for name in names):
            raise ValueError(
                f"optim.groups.{number}.prefix={group.prefix}: no such parameter or module; "
                f"the model has {', '.join(sorted({name.partition('.')[0] for name in names}))}"
            )
    members: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            multipliers = ((group.lr_mult, group.wd_mult) for group in config.groups if is_under(name, group.prefix))
            lr_mult, wd_mult = next(multipliers, (1.0, 1.0))
            decay = config.weight_decay * wd_mult if parameter.ndim > 1 else 0.0
            is_sharded = isinstance(parameter, DTensor)  # torch's fused step takes one kind at a time
            members.setdefault((lr_mult, decay, is_sharded), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay, "lr_mult": lr_mult}
        for (lr_mult, decay, _), parameters in members.items()
    ]
    optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name]
    return optimizer(groups, lr=config.lr, betas=tuple(config.betas), eps=config.eps)


def is_under(name: str, part: str) -> bool:
    """Whether a parameter has this name or belongs to the module of this name.

    `image_encoder.layers.0.weight` is under `image_encoder.layers`, and not under `image_encoder.layer`.
    """
    return name == part or name.startswith(f"{part}.")


def learning_rate(config: OptimConfig, step_in_phase: int, steps_in_phase: int) -> float:
    """The learning rate of a step: linear warm-up over `warmup_steps`, then the schedule. Resuming needs no state."""
    warmup = min(1.0, (step_in_phase + 1) / max(1, config.warmup_steps))
    after, length = max(0, step_in_phase - config.warmup_steps), max(1, steps_in_phase - config.warmup_steps)
    return config.lr * warmup * _SCHEDULES[config.schedule](after, length, config.cycle_steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each parameter group to `lr` times the group's `lr_mult`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]


def _half_cosine(fraction: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, fraction)))


# (steps after warm-up, their total number, steps between restarts) -> factor on the learning rate
_SCHEDULES = {
    "constant": lambda _after, _length, _period: 1.0,
    "cosine": lambda after, length, _period: _half_cosine(after / length),
    "restarts": lambda after, _length, period: _half_cosine(after % period / period),
}
