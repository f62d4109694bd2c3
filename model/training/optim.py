"""The optimiser of one phase: which parameters learn, the learning rate at each step, and gradient clipping for each parameter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from configs.command import UsageError
from configs.schema import OptimConfig
from model.grounding.denseav import DenseAV


class Phase(NamedTuple):
    """A stretch of the run with one set of learning parameters: steps `start` to `stop`, of which the first was `first`."""

    name: str
    first: int
    start: int
    stop: int


def phases_from(step: int, projection_steps: int, steps: int) -> list[Phase]:
    """What is left after `step` finished steps: `projections` (only projections and scale learn), then `full`."""
    switch = min(projection_steps, steps)
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


def make_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Adam or AdamW over the parameters that learn; matrices decay, vectors and scalars do not.

    Raises:
        UsageError: an unknown optimiser or schedule.
    """
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if config.name not in kinds:
        raise UsageError(f"optim.name={config.name}: allowed are {', '.join(kinds)}")
    if config.schedule not in _SCHEDULES:
        raise UsageError(f"optim.schedule={config.schedule}: allowed are {', '.join(_SCHEDULES)}")
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return kinds[config.name](groups, lr=config.lr, betas=tuple(config.betas), eps=config.eps)


def learning_rate(config: OptimConfig, step_in_phase: int, steps_in_phase: int) -> float:
    """Linear warm-up to `lr` over the first `warmup_steps`, then the schedule. A pure function, so resuming needs no state."""
    warmup = min(1.0, (step_in_phase + 1) / max(1, config.warmup_steps))
    after = (step_in_phase - config.warmup_steps) / max(1, steps_in_phase - config.warmup_steps)
    return config.lr * warmup * _SCHEDULES[config.schedule](min(1.0, max(0.0, after)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> float:
    """Give all groups this learning rate; returned for the log."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


_SCHEDULES = {"constant": lambda _: 1.0, "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share))}


def clip_each_parameter(parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale down each gradient whose own norm exceeds `max_norm`; parameters without a gradient are passed over.

    Returns:
        The norm of all gradients together before clipping, a scalar tensor; 0 when there are none.

    Source: reference 1.5.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = torch.stack(torch._foreach_norm(gradients))
    torch._foreach_mul_(gradients, list((max_norm / (norms + 1e-12)).clamp(max=1.0).unbind()))
    return norms.square().sum().sqrt()
