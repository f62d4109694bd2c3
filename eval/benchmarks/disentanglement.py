"""Disentanglement: has each head taken one kind of sound, speech or the rest? And does every head take part at all?"""

from __future__ import annotations

import torch

from eval.benchmarks.gallery import Gallery, PairFeatures
from eval.metrics.disentanglement import disentanglement
from eval.results import Measured
from model.grounding.denseav import DenseAV
from model.grounding.similarity import AGGREGATIONS, paired_volume


class HeadUse:
    """pred-dis and act-dis of two heads, and the share of the valid audio steps that each head wins.

    A step is won by the head of its most similar cell in its own picture; the shares are the mean of both galleries.

    Source: reference 1.6.
    """

    name = "disentanglement"
    prompted = False

    def __init__(self, speech: Gallery, sound: Gallery) -> None:
        self.speech, self.sound = speech, sound

    def evaluate(self, model: DenseAV) -> Measured:
        """Empty for a model with one head; pred-dis and act-dis only for two."""
        if model.heads == 1:
            return Measured({}, {}, {})
        scores, shares = zip(*(_by_head(gallery.encode(model), gallery.batch_size, model) for gallery in (self.speech, self.sound)), strict=True)
        metrics = {f"share_of_head_{head}": share for head, share in enumerate(torch.stack(shares).mean(dim=0).tolist())}
        if model.heads == 2:
            metrics |= disentanglement(*scores)._asdict()
        return Measured({f"heads/{name}": value for name, value in metrics.items()}, {}, {"speech_items": len(scores[0]), "sound_items": len(scores[1])})


def _by_head(features: PairFeatures, batch_size: int, model: DenseAV) -> tuple[torch.Tensor, torch.Tensor]:
    """Each head's score of each pair [B K], and the share of the valid steps won by each head [K]."""
    scores, wins = [], torch.zeros(model.heads, dtype=torch.float64)
    for start in range(0, len(features.mask), batch_size):
        audio, mask, image = (part[start : start + batch_size] for part in features)
        volume = paired_volume(audio, image, mask, model.score_settings.nonneg)
        scores.append(AGGREGATIONS[model.score_settings.aggregation](volume[:, None], mask)[:, 0])
        winner = volume.flatten(2, 3).amax(dim=2).argmax(dim=1)[mask]
        wins += torch.bincount(winner, minlength=model.heads).double().cpu()
    return torch.cat(scores), wins / wins.sum().clamp(min=1)
