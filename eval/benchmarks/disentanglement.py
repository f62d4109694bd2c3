"""Disentanglement: has each head taken one kind of sound, speech or the rest? And does every head take part at all?"""

from __future__ import annotations

import sys

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from configs.command import RunFailed
from eval.benchmarks.gallery import Gallery
from eval.metrics.disentanglement import disentanglement, disentanglement_intervals
from eval.metrics.intervals import draw_weights, middle
from eval.parallel import in_batches, rank
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
        """No figures of a model with one head, which is told; pred-dis and act-dis only of two.

        Raises:
            RunFailed: scores that are not finite numbers.
        """
        if model.heads == 1:
            if rank() == 0:
                print(f"{self.name}: not measured, the model has one head", file=sys.stderr)
            return Measured({}, {}, {"items": 0})
        galleries = {"speech": self.speech, "sound": self.sound}
        (speech, speech_wins), (sound, sound_wins) = (_by_head(gallery, model, f"{self.name}: {name}") for name, gallery in galleries.items())
        shares = _share(speech_wins.sum(dim=0)) / 2 + _share(sound_wins.sum(dim=0)) / 2
        # The same draws as those of the other figures.
        drawn = sum(_share(draw_weights(len(wins), self.speech.seed + n).double() @ wins) / 2 for n, wins in enumerate((speech_wins, sound_wins)))
        metrics = {f"share_of_head_{head}": share for head, share in enumerate(shares.tolist())}
        intervals = {f"share_of_head_{head}": middle(values) for head, values in enumerate(drawn.T)}
        if model.heads == 2:
            metrics |= disentanglement(speech, sound)._asdict()
            intervals |= disentanglement_intervals(speech, sound, self.speech.seed)
        items = {f"{name}_{what}": n for name, gallery in galleries.items() for what, n in ({"items": len(gallery.clips)} | gallery.counts()).items()}
        metrics, intervals = ({f"heads/{name}": value for name, value in values.items()} for values in (metrics, intervals))
        return Measured(metrics, {}, items, intervals=intervals)


@torch.inference_mode()
def _by_head(gallery: Gallery, model: DenseAV, name: str) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N K"]]:
    """Each head's score of each pair, and how many of its valid steps each head wins; on the CPU."""
    features = gallery.encode(model)

    def some(rows: range) -> list[Tensor]:
        image, audio = (each(part, lambda tensor: tensor[rows.start : rows.stop]) for part in features)
        scores = [model.scores_by_head(*(each(part, lambda tensor, b=b: tensor[b : b + 1]) for part in (image, audio)))[0] for b in range(len(rows))]
        winner = model.paired_volume(image, audio).flatten(2, 3).amax(dim=2).argmax(dim=1)
        wins = functional.one_hot(winner, model.heads).double() * audio.mask[..., None]
        return [torch.cat(scores).cpu(), wins.sum(dim=1).cpu()]

    scores, wins = in_batches(len(features.audio.mask), gallery.batch_size, some, name)
    if wrong := int((~scores.isfinite()).any(dim=1).sum()):
        raise RunFailed(f"{name}: the scores of {wrong} of {len(scores)} pairs are not finite numbers")
    return scores, wins


def _share(wins: Float[Tensor, "*n K"]) -> Float[Tensor, "*n K"]:
    return wins / wins.sum(dim=-1, keepdim=True).clamp(min=1)
