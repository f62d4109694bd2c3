"""Do two heads divide the work, one for speech, one for other sounds?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

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
        raise ValueError(f"disentanglement needs 2 heads and items of both sources, got {tuple(speech.shape)} and {tuple(sound.shape)}")
    both = torch.cat([speech, sound])
    low, high = both.min(dim=0).values, both.max(dim=0).values
    both = (both - low) / (high - low).clamp(min=torch.finfo(both.dtype).tiny)
    is_speech = torch.arange(len(both), device=both.device) < len(speech)
    sources = (is_speech, ~is_speech)
    pred, act = [], []
    for heads in ((0, 1), (1, 0)):
        pred.append(sum(average_precision(both[:, head], source) for head, source in zip(heads, sources, strict=True)) / 2)
        act.append(sum(1 - both[source, 1 - head].mean().item() for head, source in zip(heads, sources, strict=True)) / 2)
    return Disentanglement(max(pred), max(act))
