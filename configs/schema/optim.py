"""Settings of the optimiser and of the checkpoints: the parts of schema.TrainConfig that only the trainer reads."""

from __future__ import annotations

from dataclasses import dataclass

from configs.field import setting


@dataclass
class ParameterGroupConfig:
    prefix: str = setting(
        "", "parameters of this name or below it, such as image_encoder or audio_encoder.model.feature_extractor"
    )
    lr_mult: float = setting(1.0, "their learning rate, as a multiple of optim.lr", min=0)
    wd_mult: float = setting(1.0, "their weight decay, as a multiple of optim.weight_decay", min=0)


@dataclass
class OptimConfig:
    name: str = setting("adam", "adam or adamw")
    lr: float = setting(5e-5, "learning rate after warm-up", min=0)
    betas: list[float] = setting([0.9, 0.999], "decay of the two running means")
    eps: float = setting(1e-7, "added to the root of the second running mean", min=0)
    weight_decay: float = setting(0.0, "weight decay: decoupled with adamw, added to the gradient with adam", min=0)
    groups: list[ParameterGroupConfig] = setting(
        [], "parameters with a learning rate or weight decay of their own; where two match, the first counts"
    )
    warmup_steps: int = setting(1000, "linear warm-up at the start of each phase", "steps", min=0)
    schedule: str = setting(
        "constant",
        "after warm-up: constant, cosine (to zero at the end of the phase) or restarts (one cosine after another)",
    )
    cycle_steps: int = setting(10000, "length of each cosine of schedule=restarts", "steps", min=1)
    max_grad_norm_per_param: float = setting(10.0, "each parameter's gradient norm is clipped to this", min=1e-6)
    adaptive_clip_factor: float = setting(
        5.0, "and to this multiple of its own mean over the last steps; 0: not", min=0
    )
    adaptive_clip_window: int = setting(50, "over how many", "steps", min=11)
    ema_decay: float = setting(
        0.0,
        "running mean of the weights that is evaluated and exported in their place, such as 0.9999; 0: none",
        min=0,
        max=1,
    )


@dataclass
class CheckpointConfig:
    every_steps: int = setting(1000, "steps between checkpoints", "steps", min=1)
    keep_last: int = setting(3, "older checkpoints are removed", min=1)
    keep_every_n_steps: int = setting(
        0, "but for those at multiples of this, which stay for good; 0: none", "steps", min=0
    )
    best_metric: str = setting(
        "",
        "and for the one where this metric of the evaluation was highest (checkpoints/best leads to it); empty: none",
    )


@dataclass
class EvaluateConfig:
    config: str = setting(
        "",
        "settings of python -m eval.run, such as configs/eval/toy.yaml, with which the run is evaluated; empty: it is not",
    )
    every_steps: int = setting(1000, "steps between evaluations; there is one more after the last step", "steps", min=1)
