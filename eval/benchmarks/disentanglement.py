"""Disentanglement: has each head taken one kind of sound, speech or the rest? And does every head take part at all?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eval.benchmarks.gallery import Gallery, PairFeatures
from eval.metrics.disentanglement import disentanglement
from eval.results import Measured
from model.grounding.denseav import DenseAV, each


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


def _by_head(features: PairFeatures, batch_size: int, model: DenseAV) -> tuple[Float[Tensor, "B K"], Float[Tensor, "K"]]:
    """Each head's score of each pair, and the share of the valid steps won by each head."""
    scores, wins = [], torch.zeros(model.heads, dtype=torch.float64)
    for rows in torch.arange(len(features.audio.mask)).split(batch_size):
        image, audio = (each(part, lambda tensor, rows=rows: tensor[rows]) for part in features)
        scores += [model.scores_by_head(*(each(part, lambda tensor, b=b: tensor[b : b + 1]) for part in (image, audio)))[0] for b in range(len(rows))]
        winner = model.paired_volume(image, audio).flatten(2, 3).amax(dim=2).argmax(dim=1)[audio.mask]
        wins += torch.bincount(winner, minlength=model.heads).double().cpu()
    return torch.cat(scores), wins / wins.sum().clamp(min=1)
