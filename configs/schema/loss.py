"""Settings of the training objective (`loss.*` of `train.py`)."""

from dataclasses import dataclass
from typing import Literal

from configs.field import field


@dataclass
class LossConfig:
    objective: Literal["info_nce", "cross_entropy", "margin", "bce", "siglip"] = field(
        "info_nce", "contrastive objective; cross_entropy: audio to image only"
    )
    label_smoothing: float = field(
        0.0, "fraction of the target shared by the other pairs (info_nce, cross_entropy, bce)", min=0, max=1
    )
    margin: float = field(1.0, "margin by which a matching pair's logit must exceed the others (margin)", min=0)
    nonneg_pressure: float = field(0.01, "weight of the penalty on negative similarities", min=0)
    silence: float = field(0.01, "weight of the penalty on similarities of masked audio steps", min=0)
    negative_audio: float = field(0.01, "weight of the penalty on similarities of audio spliced in", min=0)
    tv: float = field(0.01, "weight of the total variation over time", min=0)
    logit_scale_floor: float = field(0.1, "weight of the penalty on a logit scale below its floor", min=0)
    head_specialization: float = field(
        0.05, "weight of the penalty on two heads that are active at one position (num_heads > 1)", min=0
    )
    image_mixup: float = field(0.1, "weight of the penalty on the other images of a quad mixup", min=0)
    disentangle: float = field(
        0.0, "weight of the supervised assignment of heads to sources (needs an even num_heads)", min=0
    )
    num_sampled_positions: int = field(
        250, "audio and image positions sampled by nonneg_pressure and silence", "positions", min=1
    )
