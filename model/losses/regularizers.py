"""The terms added to the contrastive objective, each a pure function over the pairs of one process.

P is the paired volume [B K H W T], zeroed outside the audio mask. Every term is a mean; it comes as numerator and denominator, because over several
processes both have to be summed before they are divided (objective.py does). Names are those of configs.schema.LossConfig. Source: reference 1.3.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.losses.contrastive import logit_scale


class PartialMean(NamedTuple):
    """A mean before its division. A denominator of 0, nothing to average, gives 0."""

    numerator: Float[Tensor, ""]
    denominator: Float[Tensor, ""]

    @property
    def value(self) -> Float[Tensor, ""]:
        """The mean of this process alone."""
        return safe_divide(*self)


def safe_divide(numerator: Float[Tensor, "*n"], denominator: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """numerator / denominator; 0 where both are 0."""
    return numerator / denominator.clamp(min=math.ulp(1.0))


def nonneg_pressure(steps: Float[Tensor, "N K C"], cells: Float[Tensor, "M K C"]) -> PartialMean:
    """min(s, 0)^2 over random audio steps times random image cells of the batch, per head."""
    return _mean(torch.einsum("nkc,mkc->knm", steps, cells).clamp(max=0).square())


def silence(steps: Float[Tensor, "N K C"], image: Float[Tensor, "V K C H W"]) -> PartialMean:
    """Absolute similarity of random masked-out audio steps of the batch with every cell of every image, per head; no step gives 0."""
    return _mean(torch.einsum("nkc,vkchw->nkvhw", steps, image).abs())


def negative_audio(
    volume: Float[Tensor, "B K H W T"], mask: Bool[Tensor, "B T"], positive_weight: Float[Tensor, "B T"]
) -> PartialMean:
    """P^2 weighted by (1 - positive weight) on valid steps: where another clip was spliced in, nothing should light up.

    Args:
        mask: True at valid steps.
        positive_weight: 1 on the clip's own sound, 0 inside a splice.
    """
    return _weighted(volume.square(), ((1 - positive_weight) * mask)[:, None, None, None, :])


def tv(volume: Float[Tensor, "B K H W T"]) -> PartialMean:
    """(P[t+1] - P[t])^2, temporal smoothness; one step alone gives 0."""
    return _mean(volume.diff(dim=-1).square())


def head_specialization(volume: Float[Tensor, "B K H W T"]) -> PartialMean:
    """|P_i| |P_j| over all pairs of heads: two heads should not be active in one place. One head gives 0."""
    heads = volume.abs().unbind(dim=1)
    products = [(one * other).sum() for one, other in itertools.combinations(heads, 2)]
    return PartialMean(sum(products, volume.new_zeros(())), volume.new_tensor(len(products) * heads[0].numel()))


def image_mixup(volume: Float[Tensor, "B K H W T"], image_weight: Float[Tensor, "B H W"]) -> PartialMean:
    """sum of (P m)^2 / sum of m with m = 1 - image weight: cells that show another clip's image should stay dark."""
    others = (1 - image_weight.to(volume.dtype))[:, None, :, :, None]
    return _weighted(volume.square() * others, others)


def disentangle(volume: Float[Tensor, "B K H W T"], source: Int[Tensor, "B"]) -> PartialMean:
    """Square of P summed over the heads of the other source: the first half of the heads belongs to source 0, the second to source 1."""
    first, second = volume.unflatten(1, (2, -1)).sum(dim=2).unbind(dim=1)
    return _mean(torch.where(source[:, None, None, None] == 0, second, first).square())


def logit_scale_floor(log_scale: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """max(0, -log scale)^2: the logit scale should not sink below its initial value, 1."""
    return (-logit_scale(log_scale).log()).clamp(min=0).square()


def _mean(values: Float[Tensor, "*n"]) -> PartialMean:
    return PartialMean(values.sum(), values.new_tensor(values.numel()))


def _weighted(values: Float[Tensor, "B K H W T"], weight: Float[Tensor, "B #K #H #W #T"]) -> PartialMean:
    weight = weight.to(values.dtype)
    return PartialMean((values * weight).sum(), weight.sum() * (values.numel() // weight.numel()))
