"""The optimiser of one phase: which parameters learn, in which groups, and the learning rate at each step."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from configs.check import check_choices
from configs.schema import OptimConfig
from model.denseav import DenseAV


class Phase(NamedTuple):
    """A stretch of the run with one set of learning parameters: steps `start` to `stop`, of which the first was `first`."""

    name: str
    first: int
    start: int
    stop: int


def remaining_phases(step: int, frozen_encoder_steps: int, steps: int) -> list[Phase]:
    """What is left after `step` finished steps: `projections` (only projections and scale learn), then `full`."""
    switch = min(frozen_encoder_steps, steps)
    phases = [Phase("projections", 0, step, switch), Phase("full", switch, max(step, switch), steps)]
    return [phase for phase in phases if phase.start < phase.stop]


def freeze_for_phase(model: DenseAV, phase: str, learnable: frozenset[str]) -> None:
    """Give gradients to the parameters that learn in this phase, and to no others.

    Args:
        learnable: names of the parameters that learn in `full`: those the freshly built model did not freeze on its own
            (unused class-token layers, a backbone under LoRA).
    """
    projections = {id(p) for p in model.projection_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learnable and (phase == "full" or id(parameter) in projections))


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Adam or AdamW over the parameters that learn; matrices decay, vectors and scalars do not.

    Each of its groups has a `lr_mult`, see `set_learning_rate`.

    Raises:
        ValueError: an unknown optimiser or schedule, odd betas, or a group of parameters that the model does not have.
    """
    check_choices(config, "optim.")
    if len(config.betas) != 2 or not all(0 <= beta < 1 for beta in config.betas):
        raise ValueError(f"optim.betas={config.betas}: wanted two numbers, 0 or more and below 1")
    names = [name for name, _ in model.named_parameters()]
    for number, group in enumerate(config.groups):
        if not any(is_under(name, group.prefix) for name in names):
            raise ValueError(
                f"optim.groups.{number}.match={group.prefix}: the model has no such parameter; it has {', '.join(_parts(names))} and parts of these"
            )
    sorted_out: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = next((group for group in config.groups if is_under(name, group.prefix)), None)
            lr_mult, decay_factor = (group.lr_mult, group.wd_mult) if group else (1.0, 1.0)
            decay = config.weight_decay * decay_factor if parameter.ndim > 1 else 0.0
            is_sharded = isinstance(parameter, DTensor)  # torch steps those of one kind together
            sorted_out.setdefault((lr_mult, decay, is_sharded), []).append(parameter)
    groups = [
        {"params": found, "weight_decay": decay, "lr_mult": lr_mult}
        for (lr_mult, decay, _), found in sorted_out.items()
    ]
    optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name]
    return optimizer(groups, lr=config.lr, betas=tuple(config.betas), eps=config.eps)


def is_under(name: str, part: str) -> bool:
    """Whether a parameter is the part of the model of this name, or lies in it: `image_encoder.layers.0.weight` is below `image_encoder.layers`."""
    return name == part or name.startswith(f"{part}.")


def _parts(names: list[str]) -> list[str]:
    return sorted({name.partition(".")[0] for name in names})


def learning_rate(config: OptimConfig, step_in_phase: int, steps_in_phase: int) -> float:
    """Linear warm-up to `lr` over the first `warmup_steps`, then the schedule. A pure function, so resuming needs no state."""
    warmup = min(1.0, (step_in_phase + 1) / max(1, config.warmup_steps))
    after, length = max(0, step_in_phase - config.warmup_steps), max(1, steps_in_phase - config.warmup_steps)
    return config.lr * warmup * _SCHEDULES[config.schedule](after, length, config.cycle_steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> float:
    """Give each group this learning rate times its own factor; the plain one is returned for the log."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]
    return lr


def _half_cosine(share: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


# (steps after warm-up, how many there will be, steps between restarts) -> factor on the learning rate
_SCHEDULES = {
    "constant": lambda _after, _length, _period: 1.0,
    "cosine": lambda after, length, _period: _half_cosine(after / length),
    "restarts": lambda after, _length, period: _half_cosine(after % period / period),
}
