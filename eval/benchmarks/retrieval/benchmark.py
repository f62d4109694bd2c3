"""Retrieval: which picture belongs to this sound, and the other way round, among the pairs of an evaluation split.

Held beside the features: all scores, 4 bytes each (0.4 GB for 10,000 pairs), and AT_ONCE scores by head.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import CommandFailed
from eval.benchmarks.retrieval.examples import retrieval_examples
from eval.benchmarks.retrieval.gallery import Gallery, PairFeatures
from eval.distributed import distributed_map
from eval.metrics.bootstrap import mean_interval
from eval.metrics.retrieval import ranks
from eval.results import BenchmarkResult
from model.denseav import DenseAV
from model.features import map_tensors

RECALL_AT = (1, 5, 10)
# The gallery's sounds are scored in so many parts, dealt to the ranks, or in more, of at most so many scores by head (64 MB).
PARTS, AT_ONCE = 16, 2**24


class Retrieval:
    """Recall@1, 5 and 10 both ways; scores are summed over heads.

    Args:
        name: `places_retrieval`, `audioset_retrieval`, ...
        gallery: the pairs.

    Source: reference 1.6.
    """

    prompted = False

    def __init__(self, name: str, gallery: Gallery) -> None:
        self.name, self.gallery = name, gallery

    def evaluate(self, model: DenseAV) -> BenchmarkResult:
        """Score every sound against every picture, some sounds at a time, dealt to the ranks.

        Raises:
            CommandFailed: scores that are not finite numbers.
        """
        scores = all_scores(self.gallery.encode(model), model, self.name)
        if wrong := sum(int((~part.isfinite()).any(dim=1).sum()) for part in scores.split(256)):
            raise CommandFailed(f"{self.name}: the scores of {wrong} of {len(scores)} sounds are not finite numbers")
        found = {"audio_to_image": ranks(scores), "image_to_audio": ranks(scores.T)}
        hits = {f"{way}/recall_at_{k}": (place <= k).double() for way, place in found.items() for k in RECALL_AT}
        metrics = {key: hit.mean().item() for key, hit in hits.items()}
        chance = {f"{way}/recall_at_{k}": min(1.0, k / len(scores)) for way in found for k in RECALL_AT}
        intervals = {key: mean_interval(hit, self.gallery.seed) for key, hit in hits.items()}
        examples = retrieval_examples(self.name, self.gallery, model, found["audio_to_image"])
        return BenchmarkResult(
            metrics, chance, {"items": len(scores)} | self.gallery.counts(), examples=examples, intervals=intervals
        )


@torch.inference_mode()
def all_scores(features: PairFeatures, model: DenseAV, name: str = "") -> Float[Tensor, "A V"]:
    """Scores of all sounds against all pictures, on every rank.

    Args:
        name: for the progress bar.
    """
    image, audio = features
    pairs = len(audio.mask)

    def some(rows: range) -> list[Tensor]:
        return [
            model.similarity_per_head(image, map_tensors(audio, lambda tensor: tensor[rows.start : rows.stop])).sum(
                dim=-1
            )
        ]

    (scores,) = distributed_map(
        pairs, max(1, min(-(-pairs // PARTS), AT_ONCE // (pairs * model.num_heads))), some, name
    )
    return scores
