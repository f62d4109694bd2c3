"""Settings of the optimizer, its schedule, gradient clipping and weight averaging (`optim.*` of `train.py`)."""

from dataclasses import dataclass
from typing import Literal

from configs.field import field


@dataclass
class ParameterGroupConfig:
    prefix: str = field(
        "",
        "name of a parameter or module, such as image_encoder or audio_encoder.model.feature_extractor: "
        "all parameters below it",
    )
    lr_mult: float = field(1.0, "multiplier of optim.lr", min=0)
    wd_mult: float = field(1.0, "multiplier of optim.weight_decay", min=0)


@dataclass
class OptimConfig:
    name: Literal["adam", "adamw"] = field("adam", "optimizer")
    lr: float = field(5e-5, "learning rate after warm-up", min=0)
    betas: list[float] = field(lambda: [0.9, 0.999], "decay rates of the first and second moment")
    eps: float = field(1e-7, "term added to the denominator for numerical stability", min=0)
    weight_decay: float = field(0.0, "weight decay; decoupled with adamw, L2 penalty with adam", min=0)
    groups: list[ParameterGroupConfig] = field(
        list, "parameter groups with their own learning rate or weight decay; the first match wins"
    )
    warmup_steps: int = field(1000, "linear warm-up at the start of each phase", "steps", min=0)
    schedule: Literal["constant", "cosine", "restarts"] = field(
        "constant",
        "learning rate after warm-up; cosine: to 0 at the end of the phase; restarts: one cosine after another",
    )
    cycle_steps: int = field(10000, "length of each cosine of schedule=restarts", "steps", min=1)
    max_grad_norm_per_param: float = field(10.0, "maximum gradient norm of each parameter (clipping)", min=1e-6)
    adaptive_clip_factor: float = field(
        5.0, "maximum gradient norm as a multiple of its running mean (adaptive clipping); 0: off", min=0
    )
    adaptive_clip_window: int = field(50, "window of that running mean", "steps", min=11)
    ema_decay: float = field(
        0.0,
        "decay of the exponential moving average of the weights, such as 0.9999, which is evaluated and exported in "
        "their place; 0: none",
        min=0,
        max=1,
    )
