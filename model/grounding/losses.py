"""The objective of the global batch, on any number of processes: one contrastive objective (contrast.py) and the added terms (added_terms.py).

Each process holds some of the pairs. It gathers everybody's audio features, scores them against its own images, and the columns of scores are gathered:
every score is computed once. (Rows and columns against everybody's features, as one would first do it, compute each score twice and gather the images as
well, which are 3.5 times larger.) Numerators and denominators of all the other terms are summed over the processes together, then divided.
Every process ends up with the same loss; see collectives.py for the gradients. Source: reference 1.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from configs.command import UsageError
from model.collectives import gather_pairs, sum_over_ranks, take_from_batch, world_size
from model.grounding import added_terms, fused
from model.grounding.added_terms import Mean, divided
from model.grounding.contrast import CONTRASTS, WITH_BIAS, Calibration, ContrastSettings, logits_of
from model.grounding.denseav import ScoreSettings
from model.grounding.similarity import paired_volume
from model.precision import at_least_float32

NO_CLASS_TOKEN = "the image encoder or the audio projection has no class token"
ADDED_TERMS = ("nonneg_pressure", "silence", "negative_audio", "tv", "calibration_floor", "head_specialization", "image_mixup", "disentangle")


class ObjectiveInputs(NamedTuple):
    """All the objective sees, for the pairs of this process.

    `audio_mask` is True at valid steps. `audio_positive_weight` is 1 where a step is the clip's own sound, 0 where another clip's was spliced in.
    `image_weight` is 1 where a cell shows the clip's own image, 0 where another's. `source` numbers the data set of each pair.
    Class tokens are None where there are none.
    """

    audio: Float[Tensor, "B K C T"]
    image: Float[Tensor, "B K C H W"]
    audio_mask: Bool[Tensor, "B T"]
    audio_positive_weight: Float[Tensor, "B T"]
    image_weight: Float[Tensor, "B H W"]
    source: Int[Tensor, "B"]
    calibration: Calibration
    audio_cls: Float[Tensor, "B K C"] | None = None
    image_cls: Float[Tensor, "B K C"] | None = None


class Objective(NamedTuple):
    """Unweighted terms by name, the contrastive one first, and the scores [B B] of the global batch, audio by image."""

    terms: dict[str, Float[Tensor, ""]]
    scores: Float[Tensor, "B B"]


def objective(
    inputs: ObjectiveInputs,
    scores: ScoreSettings,
    contrast: ContrastSettings,
    weights: Mapping[str, float],
    random_positions: int,
    generator: torch.Generator,
) -> Objective:
    """The contrastive term and every added term whose weight is not 0, over the pairs of all processes.

    Args:
        weights: weight of each added term by name; absent means 0.
        random_positions: how many audio steps and image cells of the global batch `nonneg_pressure` and `silence` draw, without repetition;
            all where there are fewer, but `silence` is 0 then.
        generator: draws them; the same on every process.

    Returns:
        The same on every process. `head_specialization` is left out with one head.

    Raises:
        UsageError: class-token scores without class tokens, `disentangle` with an odd number of heads, or a bias where it must or cannot be.
    """
    heads = inputs.audio.shape[1]
    _check(inputs, scores, contrast, weights, heads)
    everybodys_audio, everybodys_mask = gather_pairs(inputs.audio), gather_pairs(inputs.audio_mask)
    pairs = batch_scores(inputs, everybodys_audio, everybodys_mask, scores)
    terms = {contrast.objective: CONTRASTS[contrast.objective](logits_of(pairs, inputs.calibration), contrast)}

    image = at_least_float32(inputs.image)
    cls = (inputs.audio_cls, inputs.image_cls) if scores.use_cls else (None, None)

    @cache
    def volume() -> Float[Tensor, "B K H W T"]:
        return paired_volume(at_least_float32(inputs.audio), image, inputs.audio_mask, scores.nonneg, *cls)

    def some_steps_and_cells() -> tuple[Float[Tensor, "N K C"], Float[Tensor, "M K C"]]:
        steps, cells = everybodys_audio.permute(0, 3, 1, 2).flatten(0, 1), image.permute(0, 3, 4, 1, 2).flatten(1, 2)
        step = _draw(len(steps), random_positions, generator)
        cell = _draw(world_size() * cells.shape[0] * cells.shape[1], random_positions, generator)
        return at_least_float32(steps[step.to(image.device)]), take_from_batch(cells, cell)

    def silent_steps() -> Float[Tensor, "N K C"]:
        steps = everybodys_audio.permute(0, 3, 1, 2)[~everybodys_mask]
        drawn = _draw(len(steps), random_positions, generator) if len(steps) >= random_positions else torch.empty(0, dtype=torch.int64)
        return at_least_float32(steps[drawn.to(image.device)])

    means = {
        "nonneg_pressure": lambda: added_terms.nonneg_pressure(*some_steps_and_cells()),
        "silence": lambda: added_terms.silence(silent_steps(), image),
        "negative_audio": lambda: added_terms.negative_audio(volume(), inputs.audio_mask, inputs.audio_positive_weight),
        "tv": lambda: added_terms.tv(volume()),
        "calibration_floor": lambda: Mean(added_terms.calibration_floor(inputs.calibration.log_scale), image.new_ones(())),
        "head_specialization": lambda: added_terms.head_specialization(volume()),
        "image_mixup": lambda: added_terms.image_mixup(volume(), inputs.image_weight),
        "disentangle": lambda: added_terms.disentangle(volume(), inputs.source),
    }
    wanted = {name: means[name]() for name in ADDED_TERMS if weights.get(name) and not (name == "head_specialization" and heads == 1)}
    if wanted:
        parts = sum_over_ranks(torch.stack([torch.stack(mean) for mean in wanted.values()]))
        terms |= zip(wanted, divided(*parts.unbind(dim=1)), strict=True)
    return Objective(terms, pairs)


def batch_scores(
    inputs: ObjectiveInputs, everybodys_audio: Float[Tensor, "A K C T"], everybodys_mask: Bool[Tensor, "A T"], settings: ScoreSettings
) -> Float[Tensor, "A A"]:
    """Scores of the global batch, audio by image; each process computes the columns of its own images."""
    cls = (gather_pairs(inputs.audio_cls), inputs.image_cls) if settings.compares_cls else (None, None)
    columns = fused.all_pairs_scores(everybodys_audio, inputs.image, everybodys_mask, settings.aggregation, settings.head_aggregation, settings.nonneg, *cls)
    return gather_pairs(columns.T).T


def _check(inputs: ObjectiveInputs, scores: ScoreSettings, contrast: ContrastSettings, weights: Mapping[str, float], heads: int) -> None:
    if scores.compares_cls and (inputs.audio_cls is None or inputs.image_cls is None):
        raise UsageError(f"model.use_cls={str(scores.use_cls).lower()}, model.aggregation={scores.aggregation}: {NO_CLASS_TOKEN}")
    if weights.get("disentangle") and heads % 2:
        raise UsageError(f"loss.disentangle={weights['disentangle']} needs an even number of heads, model.heads={heads}")
    if contrast.objective not in CONTRASTS:
        raise UsageError(f"loss.objective={contrast.objective}: allowed are {', '.join(CONTRASTS)}")
    has_bias = inputs.calibration.bias is not None
    if has_bias != (contrast.objective in WITH_BIAS):
        wanted = "needs model.logit_bias=true" if not has_bias else "is blind to a bias, so model.logit_bias must be false"
        raise UsageError(f"loss.objective={contrast.objective} {wanted}")


def total(terms: Mapping[str, Float[Tensor, ""]], weights: Mapping[str, float]) -> Float[Tensor, ""]:
    """The loss: the contrastive term with weight 1 plus each added term times its weight."""
    return sum(weights[name] * term if name in ADDED_TERMS else term for name, term in terms.items())


def _draw(count: int, wanted: int, generator: torch.Generator) -> Int[Tensor, "N"]:
    """min(count, wanted) different numbers below `count`."""
    return torch.randperm(count, generator=generator, device=generator.device)[:wanted]
