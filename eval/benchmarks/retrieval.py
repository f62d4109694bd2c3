"""Retrieval: which picture belongs to this sound, and the other way round, among the pairs of an evaluation split."""

from __future__ import annotations

from eval.benchmarks.gallery import Gallery
from eval.metrics.retrieval import recall_at_k
from eval.results import Measured
from model.grounding.denseav import DenseAV

RECALL_AT = (1, 5, 10)


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

    def evaluate(self, model: DenseAV) -> Measured:
        """Score every sound against every picture, without the volume in memory."""
        scores = model.scores_by_head(*self.gallery.encode(model)).sum(dim=-1)
        metrics = {f"audio_to_image/recall_at_{k}": recall_at_k(scores, k) for k in RECALL_AT}
        metrics |= {f"image_to_audio/recall_at_{k}": recall_at_k(scores.T, k) for k in RECALL_AT}
        chance = {f"{way}/recall_at_{k}": min(1.0, k / len(scores)) for way in ("audio_to_image", "image_to_audio") for k in RECALL_AT}
        return Measured(metrics, chance, {"items": len(scores)} | {f"left_out_{why}": n for why, n in self.gallery.left_out.items()})
