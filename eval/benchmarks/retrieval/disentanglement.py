"""Disentanglement: has each head taken one kind of sound, speech or the rest? And does every head take part at all?"""

from __future__ import annotations

import sys

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from configs.errors import CommandFailed
from eval.benchmarks.retrieval.gallery import Gallery
from eval.distributed import distributed_map, rank
from eval.metrics.bootstrap import bootstrap_counts, percentile_interval
from eval.metrics.disentanglement import disentanglement, disentanglement_intervals
from eval.results import BenchmarkResult
from model.denseav import DenseAV
from model.features import map_tensors


class HeadDisentanglement:
    """pred-dis and act-dis of two heads, and the share of the valid audio steps that each head wins.

    A step is won by the head of its most similar cell in its own picture; the shares are the mean of both galleries.

    Source: reference 1.6.
    """

    name = "disentanglement"
    prompted = False

    def __init__(self, speech: Gallery, sound: Gallery) -> None:
        self.speech, self.sound = speech, sound

    def evaluate(self, model: DenseAV) -> BenchmarkResult:
        """No figures of a model with one head, which is told; pred-dis and act-dis only of two.

        Raises:
            CommandFailed: scores that are not finite numbers.
        """
        if model.num_heads == 1:
            if rank() == 0:
                print(f"{self.name}: not measured, the model has one head", file=sys.stderr)
            return BenchmarkResult({}, {}, {"items": 0})
        galleries = {"speech": self.speech, "sound": self.sound}
        (speech, speech_wins), (sound, sound_wins) = (
            _by_head(gallery, model, f"{self.name}: {name}") for name, gallery in galleries.items()
        )
        shares = _share(speech_wins.sum(dim=0)) / 2 + _share(sound_wins.sum(dim=0)) / 2
        # The same draws as those of the other figures.
        drawn = sum(
            _share(bootstrap_counts(len(wins), self.speech.seed + n).double() @ wins) / 2
            for n, wins in enumerate((speech_wins, sound_wins))
        )
        metrics = {f"head_{head}_win_rate": share for head, share in enumerate(shares.tolist())}
        intervals = {f"head_{head}_win_rate": percentile_interval(values) for head, values in enumerate(drawn.T)}
        if model.num_heads == 2:
            metrics |= disentanglement(speech, sound)._asdict()
            intervals |= disentanglement_intervals(speech, sound, self.speech.seed)
        items = {
            f"{name}_{what}": n
            for name, gallery in galleries.items()
            for what, n in ({"items": len(gallery.clips)} | gallery.counts()).items()
        }
        metrics, intervals = (
            {f"heads/{name}": value for name, value in values.items()} for values in (metrics, intervals)
        )
        return BenchmarkResult(metrics, {}, items, intervals=intervals)


@torch.inference_mode()
def _by_head(gallery: Gallery, model: DenseAV, name: str) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N K"]]:
    """Each head's score of each pair, and how many of its valid steps each head wins; on the CPU."""
    features = gallery.encode(model)

    def some(rows: range) -> list[Tensor]:
        image, audio = (map_tensors(part, lambda tensor: tensor[rows.start : rows.stop]) for part in features)
        scores = [
            model.similarity_per_head(
                *(map_tensors(part, lambda tensor, b=b: tensor[b : b + 1]) for part in (image, audio))
            )[0]
            for b in range(len(rows))
        ]
        winner = model.paired_similarity(image, audio).flatten(2, 3).amax(dim=2).argmax(dim=1)
        wins = functional.one_hot(winner, model.num_heads).double() * audio.mask[..., None]
        return [torch.cat(scores).cpu(), wins.sum(dim=1).cpu()]

    scores, wins = distributed_map(len(features.audio.mask), gallery.batch_size, some, name)
    if wrong := int((~scores.isfinite()).any(dim=1).sum()):
        raise CommandFailed(f"{name}: the scores of {wrong} of {len(scores)} pairs are not finite numbers")
    return scores, wins


def _share(wins: Float[Tensor, "*n K"]) -> Float[Tensor, "*n K"]:
    return wins / wins.sum(dim=-1, keepdim=True).clamp(min=1)
