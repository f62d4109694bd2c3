"""Cross-modal retrieval: which image belongs to this audio, and the reverse, among the pairs of an evaluation split.

Where clips have words with times, the variants `audio_to_image_advanced` and `image_to_audio_advanced` count only the
audio steps within 0.2 s of a word. A clip without words keeps all its valid steps there.

Memory beside the features: all scores, 4 bytes each (0.4 GB for 10,000 pairs), and MAX_SCORES scores per head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from configs.errors import CommandFailed
from configs.schema import EvalConfig
from eval.benchmarks.benchmark import Benchmark, BenchmarkKind, Shared
from eval.benchmarks.localization.heatmap_sources import HeatmapSource
from eval.benchmarks.retrieval.examples import retrieval_examples
from eval.benchmarks.retrieval.gallery import Gallery, PairFeatures
from eval.benchmarks.retrieval.word_steps import word_steps
from eval.distributed import distributed_map
from eval.metrics.bootstrap import mean_interval
from eval.metrics.retrieval import ranks
from eval.results import BenchmarkInfo, BenchmarkResult
from model.denseav import DenseAV
from model.features import map_tensors
from model.similarity.global_pooling import CLASS_TOKEN_AGGREGATIONS, GLOBAL_AGGREGATIONS

RECALL_AT = (1, 5, 10)
# The audio of the gallery is scored in this many parts, which are distributed over the ranks, or in more parts of at
# most this many scores per head (64 MB).
PARTS, MAX_SCORES = 16, 2**24


class Retrieval(Benchmark):
    """Recall@1, 5 and 10 in both directions, and `advanced` on data sets with words; scores are summed over heads.

    Args:
        name: `places_retrieval`, `audioset_retrieval`, ...
        gallery: the pairs.

    Source: reference 1.6.
    """

    baselines = frozenset({"global_pooling"})

    def __init__(self, name: str, gallery: Gallery) -> None:
        super().__init__(name)
        self.gallery = gallery

    def evaluate(self, model: DenseAV) -> BenchmarkResult:
        """Score all audio against all images.

        Raises:
            CommandFailed: scores that are not finite.
        """
        rank, count = self._ranks(self.gallery.encode(model), model), len(self.gallery.clips)
        with_words, counts = self._features_of_words(model)
        if with_words is not None:
            rank |= {f"{way}_advanced": found for way, found in self._ranks(with_words, model).items()}
        hits = {f"{way}/recall_at_{k}": (rank[way] <= k).double() for way in rank for k in RECALL_AT}
        return BenchmarkResult(
            metrics={key: hit.mean().item() for key, hit in hits.items()},
            chance={f"{way}/recall_at_{k}": min(1.0, k / count) for way in rank for k in RECALL_AT},
            items={"items": count} | self.gallery.counts() | counts,
            examples=retrieval_examples(self.name, self.gallery, model, rank["audio_to_image"]),
            intervals={key: mean_interval(hit, self.gallery.seed) for key, hit in hits.items()},
        )

    def _ranks(self, features: PairFeatures, model: DenseAV) -> dict[str, Int[Tensor, "N"]]:
        """The rank of each pair in both directions; 1 is best. Raises CommandFailed: scores that are not finite."""
        scores = all_scores(features, model, self.name)
        if broken := sum(int((~part.isfinite()).any(dim=1).sum()) for part in scores.split(256)):
            raise CommandFailed(f"{self.name}: the scores of {broken} of {len(scores)} sounds are not finite numbers")
        return {"audio_to_image": ranks(scores), "image_to_audio": ranks(scores.T)}

    def _features_of_words(self, model: DenseAV) -> tuple[PairFeatures | None, dict[str, int]]:
        """The features with only the steps of words valid, and counts of clips without words.

        None where no clip has words, or where scores do not depend on which steps are valid: those of class tokens.
        """
        if model.similarity_config.aggregation in CLASS_TOKEN_AGGREGATIONS:
            return None, {}
        features = self.gallery.encode(model)
        words = word_steps(self.gallery, model, features.audio.mask)
        counts = {"clips_with_invalid_words": words.clips_with_invalid_words} if words.clips_with_invalid_words else {}
        if not words.clips_with_words:
            return None, counts
        counts["clips_without_words"] = len(features.audio.mask) - words.clips_with_words
        return features._replace(audio=features.audio._replace(mask=words.mask)), counts

    def evaluate_baseline(
        self,
        baseline: str,  # noqa: ARG002
        model: DenseAV,
        object_prior: HeatmapSource | None = None,  # noqa: ARG002
    ) -> dict[str, float]:
        """Measure the model with globally pooled features; empty for a model that has such features itself."""
        if model.similarity_config.aggregation in GLOBAL_AGGREGATIONS:
            return {}
        with globally_pooled(model):
            return self.evaluate(model).metrics


@contextmanager
def globally_pooled(model: DenseAV) -> Iterator[None]:
    """In the `with` block the model compares means over cells and steps (model.similarity.global_pooling.mean_pool).

    Features that were encoded before stay valid.
    """
    config = model.similarity_config
    model.similarity_config = config._replace(aggregation="mean_pool", use_cls=False)
    try:
        yield
    finally:
        model.similarity_config = config


@torch.inference_mode()
def all_scores(features: PairFeatures, model: DenseAV, name: str = "") -> Float[Tensor, "A V"]:
    """Scores of all audio against all images, on every rank.

    Args:
        name: for the progress bar.
    """
    image, audio = features
    pairs = len(audio.mask)

    def score_part(rows: range) -> dict[str, Tensor]:
        part = map_tensors(audio, itemgetter(slice(rows.start, rows.stop)))
        return {"scores": model.similarity_per_head(image, part).sum(dim=-1)}

    part_size = max(1, min(-(-pairs // PARTS), MAX_SCORES // (pairs * model.num_heads)))
    return distributed_map(pairs, part_size, score_part, name)["scores"]


def _build(name: str, roots: Sequence[Path], _config: EvalConfig, shared: Shared) -> Retrieval:
    return Retrieval(name, shared.open_gallery(roots[0]))


_QUESTION = "Which image belongs to this sound?"
_VARIANTS = {
    "advanced": "only audio steps within 0.2 s of a spoken word count; all valid steps of a clip without words do"
}
RETRIEVAL = BenchmarkKind(BenchmarkInfo(_QUESTION, "retrieval", variants=_VARIANTS), ("retrieval",), _build)
PLACES_RETRIEVAL = BenchmarkKind(
    BenchmarkInfo(
        "Which image belongs to this caption?",
        "Places Audio retrieval",
        "Places Audio Captions: academic research only, we believe; images of Places205.",
        _VARIANTS,
    ),
    ("places_audio",),
    _build,
)
AUDIOSET_RETRIEVAL = BenchmarkKind(
    BenchmarkInfo(
        _QUESTION,
        "AudioSet retrieval",
        "AudioSet's labels: CC BY 4.0; the videos belong to their uploaders.",
        _VARIANTS,
    ),
    ("audioset",),
    _build,
)
VGGSOUND_RETRIEVAL = BenchmarkKind(
    BenchmarkInfo(
        _QUESTION,
        "VGGSound retrieval",
        "VGGSound's list: CC BY 4.0, we believe; the videos belong to their uploaders.",
        _VARIANTS,
    ),
    ("vggsound",),
    _build,
)
