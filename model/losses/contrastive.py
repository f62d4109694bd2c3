"""Contrastive objectives: pure functions of the logits of a batch, audio by image, and of which pairs match.

logits = scale * score (+ a learned bias for `bce` and `siglip`). The reference also subtracts the mean of all logits,
which changes none of the other objectives. Source: reference 1.3.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

SCALE_RANGE = (0.01, 100.0)
Logits = Float[Tensor, "A V"]
# True where audio a and image v match; None: only the diagonal does.
Positives = Bool[Tensor, "A V"] | None


class LogitScale(NamedTuple):
    """The parameters from scores to logits: w of scale = clamp(exp(w), 0.01, 100), and the learned bias or None."""

    log_scale: Float[Tensor, ""]
    bias: Float[Tensor, ""] | None = None


class ContrastiveConfig(NamedTuple):
    """Which objective (a key of CONTRASTIVE_LOSSES) and its options.

    Attributes:
        label_smoothing: fraction of the target that goes to the other pairs (`loss_leak` in the reference).
        margin: by how much the logit of a positive must exceed the others.
    """

    objective: str = "info_nce"
    label_smoothing: float = 0.0
    margin: float = 1.0


def logit_scale(log_scale: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The logit scale clamp(exp(w), 0.01, 100); w gets no gradient outside."""
    return log_scale.exp().clamp(*SCALE_RANGE)


def to_logits(scores: Float[Tensor, "A V"], parameters: LogitScale) -> Logits:
    """Scaled scores, plus the bias if there is one."""
    scaled = logit_scale(parameters.log_scale) * scores
    return scaled if parameters.bias is None else scaled + parameters.bias


def info_nce(logits: Logits, positives: Positives = None, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Mean of the cross-entropies over images for each audio and over audios for each image. Source: reference 1.3."""
    transposed = None if positives is None else positives.T
    return 0.5 * cross_entropy(logits, positives, label_smoothing) + 0.5 * cross_entropy(
        logits.T, transposed, label_smoothing
    )


def cross_entropy(logits: Logits, positives: Positives = None, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
    """The audio-to-image half of InfoNCE.

    Several positives of a row share its target equally (SupCon with the sum outside of the logarithm: Khosla et al.,
    2020).

    Source: reference 1.3. Differs from the reference, whose `ce` is both halves and a bias without effect: InfoNCE
    again.
    """
    if positives is not None:
        own, others = positives.to(logits.dtype), (~positives).to(logits.dtype)
        target = (1 - label_smoothing) * own / own.sum(dim=1, keepdim=True).clamp(min=1)
        target = target + label_smoothing * others / others.sum(dim=1, keepdim=True).clamp(min=1)
        return functional.cross_entropy(logits, target)
    others_count = len(logits) - 1
    # torch smooths over all pairs, the positive included.
    smoothing = min(1.0, label_smoothing * len(logits) / others_count) if others_count else 0.0
    return functional.cross_entropy(logits, _diagonal(logits), label_smoothing=smoothing)


def margin_ranking_loss(logits: Logits, positives: Positives = None, margin: float = 1.0) -> Float[Tensor, ""]:
    """Sum over negatives of max(0, margin - positive + negative) / B, mean over rows and columns.

    With several positives the mean over them.

    Source: reference 1.3. Differs from the reference, which takes the columns alone.
    """
    if positives is None:
        rows, columns = (functional.multi_margin_loss(x, _diagonal(logits), margin=margin) for x in (logits, logits.T))
    else:
        rows, columns = (_margin(x, p, margin) for x, p in ((logits, positives), (logits.T, positives.T)))
    return 0.5 * rows + 0.5 * columns


def binary_cross_entropy(
    logits: Logits, positives: Positives = None, label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Each of the pairs classified by itself as matching or not; their mean. Source: reference 1.3."""
    matches = torch.eye(len(logits), dtype=torch.bool, device=logits.device) if positives is None else positives
    own, others = matches.to(logits.dtype), (~matches).to(logits.dtype)
    target = (1 - label_smoothing) * own + label_smoothing / others.sum(dim=1, keepdim=True).clamp(min=1) * others
    return functional.binary_cross_entropy_with_logits(logits, target)


def siglip(logits: Logits, positives: Positives = None) -> Float[Tensor, ""]:
    """`bce` summed over all pairs and divided by B.

    Source: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023.
    """
    return len(logits) * binary_cross_entropy(logits, positives)


def _margin(logits: Logits, positives: Bool[Tensor, "A V"], margin: float) -> Float[Tensor, ""]:
    excess = (margin - logits[:, :, None] + logits[:, None, :]).clamp(min=0)  # [A, positive, negative]
    own, others = positives[:, :, None].to(logits.dtype), (~positives)[:, None, :].to(logits.dtype)
    per_row = (excess * own * others).sum(dim=(1, 2)) / own.sum(dim=(1, 2)).clamp(min=1)
    return per_row.mean() / logits.shape[1]


def _diagonal(logits: Logits) -> Tensor:
    return torch.arange(len(logits), device=logits.device)


CONTRASTIVE_LOSSES: dict[str, Callable[[Tensor, Positives, ContrastiveConfig], Tensor]] = {
    "info_nce": lambda logits, positives, config: info_nce(logits, positives, config.label_smoothing),
    "cross_entropy": lambda logits, positives, config: cross_entropy(logits, positives, config.label_smoothing),
    "margin": lambda logits, positives, config: margin_ranking_loss(logits, positives, config.margin),
    "bce": lambda logits, positives, config: binary_cross_entropy(logits, positives, config.label_smoothing),
    "siglip": lambda logits, positives, _: siglip(logits, positives),
}
# The others compare logits with each other, so a number added to all of them has no effect.
WITH_BIAS = ("bce", "siglip")
