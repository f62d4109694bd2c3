"""Do two heads divide the work, one for speech, one for other sounds?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eval.metrics.bootstrap import Interval, bootstrap_counts, percentile_interval
from eval.metrics.segmentation import average_precision


class Disentanglement(NamedTuple):
    """`pred_dis`: how well a head's score predicts the source; `act_dis`: how silent a head is on the other source. Both 0 to 1, 1 is best."""

    pred_dis: float
    act_dis: float


def disentanglement(speech: Float[Tensor, "N K"], sound: Float[Tensor, "M K"]) -> Disentanglement:
    """Both figures, each for the better of the two ways to give a source to each of K = 2 heads.

    Args:
        speech: each head's score of the matching pairs of speech; sound: likewise.

    Raises:
        ValueError: K is not 2, or a source without items.

    Source: reference 1.6.
    """
    if speech.shape[1] != 2 or sound.shape[1] != 2 or not len(speech) or not len(sound):
        raise ValueError(
            f"disentanglement needs 2 heads and items of both sources, got {tuple(speech.shape)} and {tuple(sound.shape)}"
        )
    both = torch.cat([speech, sound])
    low, high = both.min(dim=0).values, both.max(dim=0).values
    both = (both - low) / (high - low).clamp(min=torch.finfo(both.dtype).tiny)
    is_speech = torch.arange(len(both), device=both.device) < len(speech)
    sources = (is_speech, ~is_speech)
    pred, act = [], []
    for heads in ((0, 1), (1, 0)):
        pred.append(
            sum(average_precision(both[:, head], source) for head, source in zip(heads, sources, strict=True)) / 2
        )
        act.append(
            sum(1 - both[source, 1 - head].mean().item() for head, source in zip(heads, sources, strict=True)) / 2
        )
    return Disentanglement(max(pred), max(act))


def disentanglement_intervals(
    speech: Float[Tensor, "N K"], sound: Float[Tensor, "M K"], seed: int
) -> dict[str, Interval]:
    """95 % intervals of both figures, by name: items of each source are drawn again, as many as there are; scaling and assignment are those of the draw.

    Args:
        speech, sound: as in `disentanglement`.
        seed: of the draws.

    Source: our own; the figures as in `disentanglement`.
    """
    both = torch.cat([speech, sound]).double().cpu()
    is_speech = torch.arange(len(both)) < len(speech)
    weights = torch.cat([bootstrap_counts(len(speech), seed), bootstrap_counts(len(sound), seed + 1)], dim=1).double()
    pred, act = [], []
    for heads in ((0, 1), (1, 0)):
        sources = list(zip(heads, (is_speech, ~is_speech), strict=True))
        pred.append(sum(_drawn_precision(both[:, head], source, weights) for head, source in sources) / 2)
        act.append(sum(1 - _drawn_mean(both[:, 1 - head], source, weights) for head, source in sources) / 2)
    values = Disentanglement(torch.maximum(*pred), torch.maximum(*act))
    return {name: percentile_interval(value) for name, value in values._asdict().items()}


def _drawn_precision(
    scores: Float[Tensor, "N"], relevant: Bool[Tensor, "N"], weights: Float[Tensor, "R N"]
) -> Float[Tensor, "R"]:
    """Average precision of sets in which each item comes as often as its weight says."""
    scores, order = scores.sort(descending=True)
    last_of_its_value = torch.cat([scores[1:] != scores[:-1], scores.new_ones(1, dtype=torch.bool)])
    kept, found = (w.cumsum(dim=1)[:, last_of_its_value] for w in (weights[:, order], (weights * relevant)[:, order]))
    gained = found.diff(dim=1, prepend=found.new_zeros(len(found), 1))
    return (gained * found / kept.clamp(min=1)).sum(dim=1) / found[:, -1]


def _drawn_mean(
    scores: Float[Tensor, "N"], counted: Bool[Tensor, "N"], weights: Float[Tensor, "R N"]
) -> Float[Tensor, "R"]:
    """Mean of some of the items, scaled by the smallest and largest of the draw."""
    low, high = (torch.where(weights > 0, scores, worst) for worst in (torch.inf, -torch.inf))
    low, high = low.amin(dim=1), high.amax(dim=1)
    own = weights * counted
    return ((own @ scores) / own.sum(dim=1) - low) / (high - low).clamp(min=torch.finfo(scores.dtype).tiny)
