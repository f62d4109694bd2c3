"""The objective of the global batch, on any number of processes: one contrastive objective (contrastive.py) and the added terms (regularizers.py).

Each process holds some of the pairs. It gathers everybody's audio features, scores them against its own images, and the columns of scores are gathered:
every score is computed once. (Rows and columns against everybody's features, as one would first do it, compute each score twice and gather the images as
well, which are 3.5 times larger.) Numerators and denominators of all the other terms are summed over the processes together, then divided.
Every process ends up with the same loss; see distributed.py for the gradients. Source: reference 1.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.denseav import SimilarityConfig
from model.distributed import all_gather_batch, all_reduce_sum, index_global_batch, world_size
from model.dtypes import upcast_half
from model.losses import regularizers
from model.losses.contrastive import CONTRASTIVE_LOSSES, WITH_BIAS, ContrastiveConfig, LogitScale, to_logits
from model.losses.regularizers import PartialMean, safe_divide
from model.similarity import fused
from model.similarity.dense import paired_similarity

NO_CLASS_TOKEN = "the image encoder or the audio projection has no class token"
REGULARIZERS = (
    "nonneg_pressure",
    "silence",
    "negative_audio",
    "tv",
    "logit_scale_floor",
    "head_specialization",
    "image_mixup",
    "disentangle",
)


class LossInputs(NamedTuple):
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
    calibration: LogitScale
    audio_cls: Float[Tensor, "B K C"] | None = None
    image_cls: Float[Tensor, "B K C"] | None = None


class LossOutput(NamedTuple):
    """Unweighted terms by name, the contrastive one first, and the scores [B B] of the global batch, audio by image."""

    terms: dict[str, Float[Tensor, ""]]
    scores: Float[Tensor, "B B"]


def compute_loss_terms(
    inputs: LossInputs,
    scores: SimilarityConfig,
    contrast: ContrastiveConfig,
    weights: Mapping[str, float],
    num_sampled_positions: int,
    generator: torch.Generator,
) -> LossOutput:
    """The contrastive term and every added term whose weight is not 0, over the pairs of all processes.

    Args:
        weights: weight of each added term by name; absent means 0.
        num_sampled_positions: how many audio steps and image cells of the global batch `nonneg_pressure` and `silence` draw, without repetition;
            all where there are fewer, but `silence` is 0 then.
        generator: draws them; the same on every process.

    Returns:
        The same on every process. `head_specialization` is left out with one head.

    Raises:
        ValueError: class-token scores without class tokens, `disentangle` with an odd number of heads, or a bias where it must or cannot be.
    """
    heads = inputs.audio.shape[1]
    _check(inputs, scores, contrast, weights, heads)
    all_audio, all_mask = all_gather_batch(inputs.audio), all_gather_batch(inputs.audio_mask)
    pairs = global_similarity(inputs, all_audio, all_mask, scores)
    terms = {contrast.objective: CONTRASTIVE_LOSSES[contrast.objective](to_logits(pairs, inputs.calibration), contrast)}

    image = upcast_half(inputs.image)
    cls = (inputs.audio_cls, inputs.image_cls) if scores.use_cls else (None, None)

    @cache
    def volume() -> Float[Tensor, "B K H W T"]:
        return paired_similarity(upcast_half(inputs.audio), image, inputs.audio_mask, scores.nonneg, *cls)

    def sample_positions() -> tuple[Float[Tensor, "N K C"], Float[Tensor, "M K C"]]:
        steps, cells = all_audio.permute(0, 3, 1, 2).flatten(0, 1), image.permute(0, 3, 4, 1, 2).flatten(1, 2)
        step = _sample_indices(len(steps), num_sampled_positions, generator)
        cell = _sample_indices(world_size() * cells.shape[0] * cells.shape[1], num_sampled_positions, generator)
        return upcast_half(steps[step.to(image.device)]), index_global_batch(cells, cell)

    def silent_steps() -> Float[Tensor, "N K C"]:
        steps = all_audio.permute(0, 3, 1, 2)[~all_mask]
        drawn = (
            _sample_indices(len(steps), num_sampled_positions, generator)
            if len(steps) >= num_sampled_positions
            else torch.empty(0, dtype=torch.int64)
        )
        return upcast_half(steps[drawn.to(image.device)])

    means = {
        "nonneg_pressure": lambda: regularizers.nonneg_pressure(*sample_positions()),
        "silence": lambda: regularizers.silence(silent_steps(), image),
        "negative_audio": lambda: regularizers.negative_audio(
            volume(), inputs.audio_mask, inputs.audio_positive_weight
        ),
        "tv": lambda: regularizers.tv(volume()),
        "logit_scale_floor": lambda: PartialMean(
            regularizers.logit_scale_floor(inputs.calibration.log_scale), image.new_ones(())
        ),
        "head_specialization": lambda: regularizers.head_specialization(volume()),
        "image_mixup": lambda: regularizers.image_mixup(volume(), inputs.image_weight),
        "disentangle": lambda: regularizers.disentangle(volume(), inputs.source),
    }
    wanted = {
        name: means[name]()
        for name in REGULARIZERS
        if weights.get(name) and not (name == "head_specialization" and heads == 1)
    }
    if wanted:
        parts = all_reduce_sum(torch.stack([torch.stack(mean) for mean in wanted.values()]))
        terms |= zip(wanted, safe_divide(*parts.unbind(dim=1)), strict=True)
    return LossOutput(terms, pairs)


def global_similarity(
    inputs: LossInputs, all_audio: Float[Tensor, "A K C T"], all_mask: Bool[Tensor, "A T"], settings: SimilarityConfig
) -> Float[Tensor, "A A"]:
    """Scores of the global batch, audio by image; each process computes the columns of its own images."""
    cls = (all_gather_batch(inputs.audio_cls), inputs.image_cls) if settings.needs_cls else (None, None)
    columns = fused.pairwise_similarity(
        all_audio, inputs.image, all_mask, settings.aggregation, settings.head_aggregation, settings.nonneg, *cls
    )
    return all_gather_batch(columns.T).T


def _check(
    inputs: LossInputs, scores: SimilarityConfig, contrast: ContrastiveConfig, weights: Mapping[str, float], heads: int
) -> None:
    if scores.needs_cls and (inputs.audio_cls is None or inputs.image_cls is None):
        raise ValueError(
            f"model.add_cls_similarity={str(scores.use_cls).lower()}, model.similarity_aggregation={scores.aggregation}: {NO_CLASS_TOKEN}"
        )
    if weights.get("disentangle") and heads % 2:
        raise ValueError(
            f"loss.disentangle={weights['disentangle']} needs an even number of heads, model.num_heads={heads}"
        )
    if contrast.objective not in CONTRASTIVE_LOSSES:
        raise ValueError(f"loss.objective={contrast.objective}: allowed are {', '.join(CONTRASTIVE_LOSSES)}")
    has_bias = inputs.calibration.bias is not None
    if has_bias != (contrast.objective in WITH_BIAS):
        wanted = (
            "needs model.logit_bias=true" if not has_bias else "is blind to a bias, so model.logit_bias must be false"
        )
        raise ValueError(f"loss.objective={contrast.objective} {wanted}")


def weighted_sum(terms: Mapping[str, Float[Tensor, ""]], weights: Mapping[str, float]) -> Float[Tensor, ""]:
    """The loss: the contrastive term with weight 1 plus each added term times its weight."""
    return sum(weights[name] * term if name in REGULARIZERS else term for name, term in terms.items())


def _sample_indices(count: int, wanted: int, generator: torch.Generator) -> Int[Tensor, "N"]:
    """min(count, wanted) different numbers below `count`."""
    return torch.randperm(count, generator=generator, device=generator.device)[:wanted]
