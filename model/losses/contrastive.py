"""Contrastive objectives: pure functions of the logits of a batch, audio by image, matching pairs on the diagonal.

logits = scale * score (+ a learned bias for `bce` and `siglip`). The reference also subtracts the mean of all logits; the others are blind to it.
Source: reference 1.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

SCALE_RANGE = (0.01, 100.0)


class LogitScale(NamedTuple):
    """What turns scores into logits: w of scale = clamp(exp(w), 0.01, 100), and the learned bias or None."""

    log_scale: Float[Tensor, ""]
    bias: Float[Tensor, ""] | None = None


class ContrastiveConfig(NamedTuple):
    """Which objective (a key of CONTRASTIVE_LOSSES), and what some of them take."""

    objective: str = "info_nce"
    label_smoothing: float = 0.0
    margin: float = 1.0


def logit_scale(log_scale: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The logit scale clamp(exp(w), 0.01, 100); w gets no gradient outside."""
    return log_scale.exp().clamp(*SCALE_RANGE)


def to_logits(scores: Float[Tensor, "B B"], calibration: LogitScale) -> Float[Tensor, "B B"]:
    """Scaled scores, plus the bias where there is one."""
    scaled = logit_scale(calibration.log_scale) * scores
    return scaled if calibration.bias is None else scaled + calibration.bias


def info_nce(logits: Float[Tensor, "B B"], label_smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Half the cross-entropy of each audio's own image among all images, half that of each image's own audio.

    Args:
        label_smoothing: share of the target that the other B - 1 pairs divide among them (`loss_leak` in the reference).

    Source: reference 1.3.
    """
    return 0.5 * cross_entropy(logits, label_smoothing) + 0.5 * cross_entropy(logits.T, label_smoothing)


def cross_entropy(logits: Float[Tensor, "B B"], label_smoothing: float = 0.0) -> Float[Tensor, ""]:
    """One half of InfoNCE: each audio's own image among all images.

    Source: reference 1.3. Differs from the reference, whose `ce` is both halves and a bias that makes no difference: InfoNCE again.
    """
    others = len(logits) - 1
    smoothing = (
        min(1.0, label_smoothing * len(logits) / others) if others else 0.0
    )  # torch gives a share to all pairs, the own one too
    return functional.cross_entropy(logits, _targets(logits), label_smoothing=smoothing)


def margin_ranking_loss(logits: Float[Tensor, "B B"], margin: float = 1.0) -> Float[Tensor, ""]:
    """How far others come within a margin of the own one: sum over j of max(0, margin - own + other_j) / B, mean over rows and columns.

    Source: reference 1.3. Differs from the reference, which takes the columns alone.
    """
    rows, columns = (functional.multi_margin_loss(each, _targets(logits), margin=margin) for each in (logits, logits.T))
    return 0.5 * rows + 0.5 * columns


def binary_cross_entropy(logits: Float[Tensor, "B B"], label_smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Each of the B x B pairs by itself, matching or not; their mean. Targets are those of `info_nce`. Source: reference 1.3."""
    own = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    target = (1 - label_smoothing) * own + label_smoothing / max(1, len(logits) - 1) * (1 - own)
    return functional.binary_cross_entropy_with_logits(logits, target)


def siglip(logits: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    """As `bce`, but the sum over all pairs divided by B. Source: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, equation 1."""
    return len(logits) * binary_cross_entropy(logits)


def _targets(logits: Float[Tensor, "B B"]) -> Tensor:
    return torch.arange(len(logits), device=logits.device)


CONTRASTIVE_LOSSES: dict[str, Callable[[Tensor, ContrastiveConfig], Tensor]] = {
    "info_nce": lambda logits, settings: info_nce(logits, settings.label_smoothing),
    "cross_entropy": lambda logits, settings: cross_entropy(logits, settings.label_smoothing),
    "margin": lambda logits, settings: margin_ranking_loss(logits, settings.margin),
    "bce": lambda logits, settings: binary_cross_entropy(logits, settings.label_smoothing),
    "siglip": lambda logits, _: siglip(logits),
}
# The others compare logits with each other, so a number added to all of them changes nothing.
WITH_BIAS = ("bce", "siglip")
