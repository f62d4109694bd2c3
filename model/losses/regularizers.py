"""The terms added to the contrastive loss, each a function of the LossInputs of one process.

Every term is a mean, returned as numerator and denominator: over several processes both are summed before they are
divided (objective.py). P is the paired volume [B K H W T], 0 outside the audio mask. Adding a term: a function, its
line in REGULARIZERS, its weight in configs.schema.LossConfig. Source: reference 1.3.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from model.losses.contrastive import logit_scale
from model.losses.inputs import LossInputs


class PartialMean(NamedTuple):
    """A mean before its division, by `safe_divide`. A denominator of 0 (nothing to average) gives 0."""

    numerator: Float[Tensor, ""]
    denominator: Float[Tensor, ""]


def safe_divide(numerator: Float[Tensor, "*n"], denominator: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """numerator / denominator; 0 where both are 0."""
    return numerator / denominator.clamp(min=math.ulp(1.0))


def nonneg_pressure(inputs: LossInputs) -> PartialMean:
    """min(s, 0)^2 over sampled audio steps times sampled image cells of the global batch, per head."""
    steps, cells = inputs.sample_positions()
    return _mean(torch.einsum("nkc,mkc->knm", steps, cells).clamp(max=0).square())


def silence(inputs: LossInputs) -> PartialMean:
    """Absolute similarity of sampled masked-out steps with all cells of all images, per head; 0 without such steps."""
    return _mean(torch.einsum("nkc,vkchw->nkvhw", inputs.sample_silent_steps(), inputs.image.dense).abs())


def negative_audio(inputs: LossInputs) -> PartialMean:
    """P^2 weighted by (1 - positive weight) on valid steps: no response where another clip was spliced in."""
    weight = ((1 - inputs.audio_positive_weight) * inputs.audio.mask)[:, None, None, None, :]
    return _weighted(inputs.volume.square(), weight)


def tv(inputs: LossInputs) -> PartialMean:
    """(P[t+1] - P[t])^2, temporal smoothness; a single step gives 0."""
    return _mean(inputs.volume.diff(dim=-1).square())


def logit_scale_floor(inputs: LossInputs) -> PartialMean:
    """max(0, -log scale)^2: the logit scale should not fall below its initial value, 1."""
    value = (-logit_scale(inputs.logit_scale.log_scale).log()).clamp(min=0).square()
    return PartialMean(value, torch.ones_like(value))


def head_specialization(inputs: LossInputs) -> PartialMean | None:
    """|P_i| |P_j| over all pairs of heads: two heads should not be active at one place. None with one head."""
    heads = inputs.volume.abs().unbind(dim=1)
    if len(heads) == 1:
        return None
    products = [(one * other).sum() for one, other in itertools.combinations(heads, 2)]
    total = sum(products, inputs.volume.new_zeros(()))
    return PartialMean(total, inputs.volume.new_tensor(len(products) * heads[0].numel()))


def image_mixup(inputs: LossInputs) -> PartialMean:
    """sum of (P m)^2 / sum of m with m = 1 - image weight: cells that show another clip's image should not respond."""
    others = (1 - inputs.image_weight.to(inputs.volume.dtype))[:, None, :, :, None]
    return _weighted(inputs.volume.square() * others, others)


def disentangle(inputs: LossInputs) -> PartialMean:
    """Square of P summed over the heads of the other source; the first half of the heads belongs to source 0.

    Raises:
        ValueError: an odd number of heads.
    """
    if inputs.volume.shape[1] % 2:
        raise ValueError(f"loss.disentangle needs an even number of heads, model.num_heads={inputs.volume.shape[1]}")
    first, second = inputs.volume.unflatten(1, (2, -1)).sum(dim=2).unbind(dim=1)
    return _mean(torch.where(inputs.source[:, None, None, None] == 0, second, first).square())


def _mean(values: Float[Tensor, "*n"]) -> PartialMean:
    return PartialMean(values.sum(), values.new_tensor(values.numel()))


def _weighted(values: Float[Tensor, "B K H W T"], weight: Float[Tensor, "B #K #H #W #T"]) -> PartialMean:
    weight = weight.to(values.dtype)
    return PartialMean((values * weight).sum(), weight.sum() * (values.numel() // weight.numel()))


# In the order in which they are computed: the sampled ones draw from one generator.
REGULARIZERS: dict[str, Callable[[LossInputs], PartialMean | None]] = {
    "nonneg_pressure": nonneg_pressure,
    "silence": silence,
    "negative_audio": negative_audio,
    "tv": tv,
    "logit_scale_floor": logit_scale_floor,
    "head_specialization": head_specialization,
    "image_mixup": image_mixup,
    "disentangle": disentangle,
}
