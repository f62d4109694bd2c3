"""Disentanglement: does each head specialize in speech or in other sounds? And is every head used?"""

import sys
from operator import itemgetter

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from configs.errors import CommandFailed
from eval.benchmarks.benchmark import Benchmark, BenchmarkKind
from eval.benchmarks.retrieval.gallery import Gallery
from eval.distributed import distributed_map, rank
from eval.metrics.bootstrap import bootstrap_counts, percentile_interval
from eval.metrics.disentanglement import disentanglement, disentanglement_intervals
from eval.results import BenchmarkInfo, BenchmarkResult
from model.denseav import DenseAV
from model.features import AudioFeatures, ImageFeatures, map_tensors


class HeadDisentanglement(Benchmark):
    """pred-dis and act-dis of two heads, and the win rate of each head: the fraction of valid audio steps that it wins.

    A step is won by the head of its most similar cell in the image of its pair; win rates are means over both
    galleries.

    Args:
        speech, sound: pairs with spoken captions, and pairs with other sounds.

    Source: reference 1.6.
    """

    def __init__(self, speech: Gallery, sound: Gallery, name: str = "disentanglement") -> None:
        super().__init__(name)
        self.speech, self.sound = speech, sound

    def evaluate(self, model: DenseAV) -> BenchmarkResult:
        """Measure the heads; no metrics for a model with one head, and pred-dis and act-dis only with two.

        Raises:
            CommandFailed: scores that are not finite.
        """
        if model.num_heads == 1:
            if rank() == 0:
                print(f"{self.name}: not measured, the model has one head", file=sys.stderr)
            return BenchmarkResult({}, {}, {"items": 0})
        galleries = {"speech": self.speech, "sound": self.sound}
        (speech, speech_wins), (sound, sound_wins) = (
            _scores_and_wins(gallery, model, f"{self.name}: {name}") for name, gallery in galleries.items()
        )
        rates = _fractions(speech_wins.sum(dim=0)) / 2 + _fractions(sound_wins.sum(dim=0)) / 2
        # The same bootstrap draws as those of disentanglement_intervals.
        speech_rates, sound_rates = (
            _fractions(bootstrap_counts(len(wins), self.speech.seed + n).double() @ wins) / 2
            for n, wins in enumerate((speech_wins, sound_wins))
        )
        metrics = {f"head_{head}_win_rate": value for head, value in enumerate(rates.tolist())}
        resampled = (speech_rates + sound_rates).T
        intervals = {f"head_{head}_win_rate": percentile_interval(values) for head, values in enumerate(resampled)}
        if model.num_heads == 2:
            metrics |= disentanglement(speech, sound)._asdict()
            intervals |= disentanglement_intervals(speech, sound, self.speech.seed)
        items = {
            f"{name}_{key}": n
            for name, gallery in galleries.items()
            for key, n in ({"items": len(gallery.clips)} | gallery.counts()).items()
        }
        return BenchmarkResult(
            {f"heads/{key}": value for key, value in metrics.items()},
            {},
            items,
            intervals={f"heads/{key}": interval for key, interval in intervals.items()},
        )


@torch.inference_mode()
def _scores_and_wins(gallery: Gallery, model: DenseAV, name: str) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N K"]]:
    """The score of each pair by each head, and how many valid steps of the pair each head wins; on the CPU."""
    features = gallery.encode(model)

    def evaluate_batch(rows: range) -> dict[str, Tensor]:
        def take_pairs(start: int, stop: int) -> tuple[ImageFeatures, AudioFeatures]:
            take = itemgetter(slice(start, stop))
            return map_tensors(features.image, take), map_tensors(features.audio, take)

        image, audio = take_pairs(rows.start, rows.stop)
        scores = [model.similarity_per_head(*take_pairs(row, row + 1))[0] for row in rows]
        winner = model.paired_similarity(image, audio).flatten(2, 3).amax(dim=2).argmax(dim=1)
        wins = functional.one_hot(winner, model.num_heads).double() * audio.mask[..., None]
        return {"scores": torch.cat(scores).cpu(), "wins": wins.sum(dim=1).cpu()}

    pairs = distributed_map(len(features.audio.mask), gallery.batch_size, evaluate_batch, name)
    scores = pairs["scores"]
    if broken := int((~scores.isfinite()).any(dim=1).sum()):
        raise CommandFailed(f"{name}: the scores of {broken} of {len(scores)} pairs are not finite numbers")
    return scores, pairs["wins"]


def _fractions(wins: Float[Tensor, "*n K"]) -> Float[Tensor, "*n K"]:
    return wins / wins.sum(dim=-1, keepdim=True).clamp(min=1)


DISENTANGLEMENT = BenchmarkKind(
    BenchmarkInfo(
        "Do the heads specialize in speech and other sounds?",
        "disentanglement",
        "The pairs of Places Audio and AudioSet retrieval, on their terms.",
    ),
    ("places_audio", "audioset"),
    lambda name, roots, _, shared: HeadDisentanglement(
        shared.open_gallery(roots[0]), shared.open_gallery(roots[1]), name
    ),
)
