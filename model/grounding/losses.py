"""The objective: InfoNCE and the added terms, each a pure function, each over the features of the whole (gathered) batch.

P is the paired volume [B K H W T], zeroed outside the audio mask. Terms come back unweighted and by name, the names of configs.schema.LossConfig;
`total` weighs them once. Random positions come from the generator that is passed in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from configs.command import UsageError
from model.grounding import fused
from model.grounding.denseav import ScoreSettings
from model.grounding.similarity import paired_volume

SCALE_RANGE = (0.01, 100.0)


class ObjectiveInputs(NamedTuple):
    """All the objective sees, for the pairs of the global batch.

    `audio_mask` is True at valid steps. `audio_positive_weight` is 1 where a step is the clip's own sound, 0 where another clip's was spliced in.
    `image_weight` is 1 where a cell shows the clip's own image, 0 where another's. `source` numbers the data set of each pair.
    `log_scale` is w; class tokens are None where scores do without.
    """

    audio: Float[Tensor, "B K C T"]
    image: Float[Tensor, "B K C H W"]
    audio_mask: Bool[Tensor, "B T"]
    audio_positive_weight: Float[Tensor, "B T"]
    image_weight: Float[Tensor, "B H W"]
    source: Int[Tensor, "B"]
    log_scale: Float[Tensor, ""]
    audio_cls: Float[Tensor, "B K C"] | None = None
    image_cls: Float[Tensor, "B K C"] | None = None


def objective(
    inputs: ObjectiveInputs, scores: ScoreSettings, weights: Mapping[str, float], random_positions: int, generator: torch.Generator
) -> dict[str, Float[Tensor, ""]]:
    """InfoNCE and every added term whose weight is not 0.

    Args:
        weights: weight of each added term by name; absent means 0.
        random_positions: how many positions `nonneg_pressure` and `silence` draw.
        generator: draws them; the same on every rank.

    Returns:
        Unweighted scalars by name, `info_nce` first. `head_specialization` is left out with one head.

    Raises:
        UsageError: class-token scores without class tokens, or `disentangle` with an odd number of heads.
    """
    if scores.use_cls and (inputs.audio_cls is None or inputs.image_cls is None):
        raise UsageError("model.use_cls=true: the image encoder or the audio projection has no class token; allowed here is false")
    heads = inputs.audio.shape[1]
    if weights.get("disentangle") and heads % 2:
        raise UsageError(f"loss.disentangle={weights['disentangle']} needs an even number of heads, model.heads={heads}")
    cls = (inputs.audio_cls, inputs.image_cls) if scores.use_cls else (None, None)

    @cache
    def volume() -> Float[Tensor, "B K H W T"]:
        return paired_volume(inputs.audio, inputs.image, inputs.audio_mask, scores.nonneg, *cls)

    added = {
        "nonneg_pressure": lambda: nonneg_pressure(inputs.audio, inputs.image, random_positions, generator),
        "silence": lambda: silence(inputs.audio, inputs.image, inputs.audio_mask, random_positions, generator),
        "negative_audio": lambda: negative_audio(volume(), inputs.audio_mask, inputs.audio_positive_weight),
        "tv": lambda: tv(volume()),
        "calibration_floor": lambda: calibration_floor(inputs.log_scale),
        "head_specialization": lambda: head_specialization(volume()),
        "image_mixup": lambda: image_mixup(volume(), inputs.image_weight),
        "disentangle": lambda: disentangle(volume(), inputs.source),
    }
    wanted = [name for name in added if weights.get(name) and not (name == "head_specialization" and heads == 1)]
    pairs = fused.all_pairs_scores(inputs.audio, inputs.image, inputs.audio_mask, scores.aggregation, scores.head_aggregation, scores.nonneg, *cls)
    return {"info_nce": info_nce(pairs, inputs.log_scale)} | {name: added[name]() for name in wanted}


def total(terms: Mapping[str, Float[Tensor, ""]], weights: Mapping[str, float]) -> Float[Tensor, ""]:
    """The loss: InfoNCE with weight 1 plus each other term times its weight."""
    weights = {"info_nce": 1.0, **weights}
    return sum(weights[name] * term for name, term in terms.items())


def scale_of(log_scale: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The logit scale clamp(exp(w), 0.01, 100); w gets no gradient outside."""
    return log_scale.exp().clamp(*SCALE_RANGE)


def info_nce(scores: Float[Tensor, "B B"], log_scale: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Half the cross-entropy of each audio's own image among all images, half that of each image's own audio.

    Args:
        scores: audio by image, matching pairs on the diagonal.
        log_scale: w of scale = clamp(exp(w), 0.01, 100).

    Source: reference 1.3.
    """
    logits = scale_of(log_scale) * scores
    logits = logits - logits.mean()
    own = torch.arange(len(logits), device=logits.device)
    return 0.5 * functional.cross_entropy(logits, own) + 0.5 * functional.cross_entropy(logits.T, own)


def nonneg_pressure(audio: Float[Tensor, "B K C T"], image: Float[Tensor, "B K C H W"], positions: int, generator: torch.Generator) -> Float[Tensor, ""]:
    """Mean of min(s, 0)^2 over random audio steps times random image cells of the batch, per head.

    Args:
        positions: how many of each are drawn, without repetition; all where there are fewer.

    Source: reference 1.3.
    """
    steps = audio.permute(0, 3, 1, 2).flatten(0, 1)
    cells = image.permute(0, 3, 4, 1, 2).flatten(0, 2)
    steps, cells = (rows[_draw(len(rows), positions, generator).to(rows.device)] for rows in (steps, cells))
    return torch.einsum("nkc,mkc->knm", steps, cells).clamp(max=0).square().mean()


def silence(
    audio: Float[Tensor, "B K C T"], image: Float[Tensor, "B K C H W"], mask: Bool[Tensor, "B T"], positions: int, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Mean absolute similarity of random masked-out audio steps with every cell of every image of the batch, per head.

    Args:
        mask: True at valid steps; the others are drawn from.
        positions: how many are drawn, without repetition.

    Returns:
        0 when fewer than `positions` steps are masked out.

    Source: reference 1.3.
    """
    silent = audio.permute(0, 3, 1, 2)[~mask]
    if len(silent) < positions:
        return audio.new_zeros(())
    silent = silent[_draw(len(silent), positions, generator).to(audio.device)]
    return torch.einsum("nkc,vkchw->nkvhw", silent, image).abs().mean()


def negative_audio(volume: Float[Tensor, "B K H W T"], mask: Bool[Tensor, "B T"], positive_weight: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Mean of P^2 weighted by (1 - positive weight) on valid steps: where another clip was spliced in, nothing should light up.

    Args:
        mask: True at valid steps.
        positive_weight: 1 on the clip's own sound, 0 inside a splice.

    Returns:
        0 when no valid step is spliced.

    Source: reference 1.3.
    """
    return _weighted_mean(volume.square(), ((1 - positive_weight) * mask)[:, None, None, None, :])


def tv(volume: Float[Tensor, "B K H W T"]) -> Float[Tensor, ""]:
    """Mean of (P[t+1] - P[t])^2, temporal smoothness; 0 where there is one step only. Source: reference 1.3."""
    return volume.diff(dim=-1).square().mean() if volume.shape[-1] > 1 else volume.new_zeros(())


def calibration_floor(log_scale: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """max(0, -log scale)^2: the logit scale should not sink below its initial value, 1. Source: reference 1.3."""
    return (-scale_of(log_scale).log()).clamp(min=0).square().squeeze()


def head_specialization(volume: Float[Tensor, "B K H W T"]) -> Float[Tensor, ""]:
    """Mean over pairs of heads of the mean of |P_i| |P_j|: two heads should not be active in one place. Needs K >= 2. Source: reference 1.3."""
    heads = volume.abs().unbind(dim=1)
    return torch.stack([(one * other).mean() for one, other in itertools.combinations(heads, 2)]).mean()


def image_mixup(volume: Float[Tensor, "B K H W T"], image_weight: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """sum of (P m)^2 / sum of m with m = 1 - image weight: cells that show another clip's image should stay dark.

    Returns:
        0 when no image is mixed.

    Source: reference 1.3.
    """
    others = (1 - image_weight)[:, None, :, :, None]
    return _weighted_mean(volume.square() * others, others)


def disentangle(volume: Float[Tensor, "B K H W T"], source: Int[Tensor, "B"]) -> Float[Tensor, ""]:
    """Mean square of P summed over the heads of the other source: the first half of the heads belongs to source 0, the second to source 1.

    Source: reference 1.3.
    """
    first, second = volume.unflatten(1, (2, -1)).sum(dim=2).unbind(dim=1)
    return torch.where(source[:, None, None, None] == 0, second, first).square().mean()


def _weighted_mean(
    values: Float[Tensor, "B K H W T"],
    weight: Float[Tensor, "B #K #H #W #T"],
) -> Float[Tensor, ""]:
    """sum(values * weight) / sum(weight over all values), 0 where every weight is 0."""
    weight = weight.expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=math.ulp(1.0))


def _draw(count: int, wanted: int, generator: torch.Generator) -> Int[Tensor, "N"]:
    """min(count, wanted) different numbers below `count`."""
    return torch.randperm(count, generator=generator, device=generator.device)[:wanted]
