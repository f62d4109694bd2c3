"""First-stage vectors: one for each picture and sound, whose inner product ranks nearly as the dense score does.

The score of a picture for a sound is the mean over audio steps of a maximum over cells, which means of features cannot
rank: of the dense top 10 of 1,485 toy clips, their first 50 hold 30 %. So audio steps are quantized to WORDS directions
(spherical k-means over steps of the indexed sounds). A picture's vector holds its exact score for each word, as a sound
of one step; a sound's vector holds how much of it each word is: the mean over steps of the step's length along its
nearest word. Their inner product is the dense score of the quantized sound (99.8 % of the same top 10).

Models that compare global vectors (mean_pool, cls_token, simpool) use those, all heads in one vector. Limits: sounds
unlike those of the codebook are found badly (see `coverage`, and build.py, which fits it anew then); class tokens that
are added to dense scores (use_cls) count in the second stage only.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from model.features import AudioFeatures, ImageFeatures
from model.similarity import fused
from model.similarity.config import SimilarityConfig
from model.similarity.global_pooling import GLOBAL_AGGREGATIONS, mean_pool_audio, mean_pool_image

WORDS = 512
MAX_FITTED_VECTORS = 50_000
_ITERATIONS = 12
_IMAGES_AT_ONCE = 16


class Codebook:
    """Directions of audio steps.

    Args:
        words: unit vectors over all heads together, one for each direction.
        coverage: mean cosine of the fitted steps with their nearest word.
    """

    def __init__(self, words: Float[Tensor, "Q K C"], coverage: float) -> None:
        self.words, self.coverage = words, coverage

    def image_vectors(self, image: ImageFeatures, config: SimilarityConfig) -> Float[Tensor, "V Q"]:
        """The dense score of each image for each word, per-head scores summed over heads."""
        mask = torch.ones(len(self.words), 1, dtype=torch.bool)
        words = AudioFeatures(self.words[..., None], mask)
        config = config._replace(use_cls=False)
        parts = [
            fused.similarity_per_head(words, ImageFeatures(part), config).sum(dim=-1).T
            for part in image.dense.float().split(_IMAGES_AT_ONCE)
        ]
        return torch.cat(parts)

    def audio_vectors(self, audio: AudioFeatures) -> Float[Tensor, "A Q"]:
        """The share of each word in each sound: the mean over valid steps of their length along their nearest word."""
        similarity = audio.dense.float().permute(0, 3, 1, 2).flatten(2) @ self.words.flatten(1).T
        length, word = similarity.max(dim=-1)
        out = torch.zeros(len(length), len(self.words))
        out.scatter_add_(1, word, length.clamp(min=0) * audio.mask)
        return out / audio.mask.sum(dim=1, keepdim=True).clamp(min=1)

    def measure_coverage(self, vectors: Float[Tensor, "N K C"]) -> float:
        """Mean cosine of vectors with their nearest word; 1 for none."""
        if not len(vectors):
            return 1.0
        similarity = functional.normalize(vectors.flatten(1), dim=1) @ self.words.flatten(1).T
        return float(similarity.amax(dim=1).mean())


def fit_codebook(vectors: Float[Tensor, "N K C"], words: int = WORDS, seed: int = 0) -> Codebook:
    """Spherical k-means over a sample of at most MAX_FITTED_VECTORS vectors; fewer words for fewer vectors."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(vectors), generator=generator)
    sample = functional.normalize(vectors[order[:MAX_FITTED_VECTORS]].float().flatten(1), dim=1)
    centers = sample[:words].clone()
    for _ in range(_ITERATIONS):
        nearest = torch.cat([(part @ centers.T).argmax(dim=1) for part in sample.split(4096)])
        sums = torch.zeros_like(centers).index_add_(0, nearest, sample)
        is_used = sums.norm(dim=1, keepdim=True) > 1e-6
        centers = torch.where(is_used, functional.normalize(sums, dim=1), centers)
    codebook = Codebook(centers.unflatten(1, vectors.shape[1:]), 1.0)
    codebook.coverage = codebook.measure_coverage(sample.unflatten(1, vectors.shape[1:]))
    return codebook


def audio_steps(audio: AudioFeatures) -> Float[Tensor, "N K C"]:
    """All valid steps of A sounds."""
    return audio.dense.permute(0, 3, 1, 2)[audio.mask]


def strong_cells(image: ImageFeatures) -> Float[Tensor, "N K C"]:
    """The quarter of the cells with the largest features, for a codebook of an index without sounds."""
    cells = image.dense.permute(0, 3, 4, 1, 2).flatten(0, 2)
    return cells[cells.flatten(1).norm(dim=1).topk(max(1, len(cells) // 4)).indices]


class FirstStage:
    """Vectors of pictures and sounds for nearest-neighbor search by inner product.

    Args:
        codebook: of the index; not used by models that compare global vectors.
        config: the similarity of the model.
    """

    def __init__(self, codebook: Codebook, config: SimilarityConfig) -> None:
        self.codebook, self.config = codebook, config

    @torch.inference_mode()
    def image_vectors(self, image: ImageFeatures) -> Float[Tensor, "V D"]:
        """One vector for each image."""
        if self.config.aggregation not in GLOBAL_AGGREGATIONS:
            return self.codebook.image_vectors(image, self.config)
        if self.config.aggregation == "mean_pool":
            return mean_pool_image(image).flatten(1)
        assert image.cls is not None, "features without class tokens"
        return image.cls.flatten(1)

    @torch.inference_mode()
    def audio_vectors(self, audio: AudioFeatures) -> Float[Tensor, "A D"]:
        """One vector for each sound."""
        if self.config.aggregation not in GLOBAL_AGGREGATIONS:
            return self.codebook.audio_vectors(audio)
        if self.config.aggregation == "mean_pool":
            return mean_pool_audio(audio).flatten(1)
        assert audio.cls is not None, "features without class tokens"
        return audio.cls.flatten(1)
