"""Disentanglement of two heads: does one respond to speech and the other to other sounds?"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eval.metrics.bootstrap import Interval, bootstrap_counts, percentile_interval
from eval.metrics.segmentation import average_precision


class Disentanglement(NamedTuple):
    """`pred_dis`: how well a head's score predicts the source; `act_dis`: how inactive a head is on the other source.

    Both 0 to 1, higher is better.
    """

    pred_dis: float
    act_dis: float


def disentanglement(speech: Float[Tensor, "N K"], sound: Float[Tensor, "M K"]) -> Disentanglement:
    """Both metrics, each for the better of the two assignments of sources to K = 2 heads.

    Args:
        speech: score of each head for matching pairs with speech.
        sound: likewise with other sounds.

    Raises:
        ValueError: K is not 2, or a source has no items.

    Source: reference 1.6.
    """
    if speech.shape[1] != 2 or sound.shape[1] != 2 or not len(speech) or not len(sound):
        raise ValueError(
            f"disentanglement needs 2 heads and items of both sources, got scores of shape {tuple(speech.shape)} and "
            f"{tuple(sound.shape)}"
        )
    both = torch.cat([speech, sound])
    low, high = both.min(dim=0).values, both.max(dim=0).values
    both = (both - low) / (high - low).clamp(min=torch.finfo(both.dtype).tiny)
    is_speech = torch.arange(len(both), device=both.device) < len(speech)
    pred, act = [], []
    for speech_head, sound_head in ((0, 1), (1, 0)):
        ap_speech = average_precision(both[:, speech_head], is_speech)
        pred.append((ap_speech + average_precision(both[:, sound_head], ~is_speech)) / 2)
        off_speech = 1 - both[is_speech, sound_head].mean().item()
        act.append((off_speech + (1 - both[~is_speech, speech_head].mean().item())) / 2)
    return Disentanglement(max(pred), max(act))


def disentanglement_intervals(
    speech: Float[Tensor, "N K"], sound: Float[Tensor, "M K"], seed: int
) -> dict[str, Interval]:
    """95 % bootstrap intervals of both metrics, by name. Items are resampled within each source.

    Scaling and assignment are recomputed for each draw.

    Args:
        speech, sound: as in `disentanglement`.
        seed: of the draws.

    Source: our own.
    """
    both = torch.cat([speech, sound]).double().cpu()
    is_speech = torch.arange(len(both)) < len(speech)
    weights = torch.cat([bootstrap_counts(len(speech), seed), bootstrap_counts(len(sound), seed + 1)], dim=1).double()
    pred, act = [], []
    for speech_head, sound_head in ((0, 1), (1, 0)):
        ap_speech = _resampled_ap(both[:, speech_head], is_speech, weights)
        pred.append((ap_speech + _resampled_ap(both[:, sound_head], ~is_speech, weights)) / 2)
        off_speech = 1 - _resampled_mean(both[:, sound_head], is_speech, weights)
        act.append((off_speech + (1 - _resampled_mean(both[:, speech_head], ~is_speech, weights))) / 2)
    return {
        "pred_dis": percentile_interval(torch.maximum(*pred)),
        "act_dis": percentile_interval(torch.maximum(*act)),
    }


def _resampled_ap(
    scores: Float[Tensor, "N"], relevant: Bool[Tensor, "N"], weights: Float[Tensor, "R N"]
) -> Float[Tensor, "R"]:
    """Average precision of sets in which each item occurs as often as its weight says."""
    scores, order = scores.sort(descending=True)
    last = torch.cat([scores[1:] != scores[:-1], scores.new_ones(1, dtype=torch.bool)])  # of each run of equal scores
    positive, hit = (w.cumsum(dim=1)[:, last] for w in (weights[:, order], (weights * relevant)[:, order]))
    gained = hit.diff(dim=1, prepend=hit.new_zeros(len(hit), 1))
    return (gained * hit / positive.clamp(min=1)).sum(dim=1) / hit[:, -1]


def _resampled_mean(
    scores: Float[Tensor, "N"], selected: Bool[Tensor, "N"], weights: Float[Tensor, "R N"]
) -> Float[Tensor, "R"]:
    """Mean of the selected items, scaled by the smallest and largest score of the draw."""
    low, high = (torch.where(weights > 0, scores, worst) for worst in (torch.inf, -torch.inf))
    low, high = low.amin(dim=1), high.amax(dim=1)
    selected_weights = weights * selected
    mean = (selected_weights @ scores) / selected_weights.sum(dim=1)
    return (mean - low) / (high - low).clamp(min=torch.finfo(scores.dtype).tiny)
