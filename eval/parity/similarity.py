"""Golden cases of similarities: scores of all pairs with their gradients, volumes of the matching pairs."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from model.features import AudioFeatures, ImageFeatures
from model.similarity import dense, fused
from model.similarity.config import SimilarityConfig


def stored_features(params: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[AudioFeatures, ImageFeatures]:
    """The features of a case, stored as [B, K*C, ...], split into heads; they require a gradient."""
    audio, image = (
        tensors[name].unflatten(1, (params["num_heads"], -1)).requires_grad_()
        for name in ("audio_features", "image_features")
    )
    return AudioFeatures(audio, tensors["audio_mask"]), ImageFeatures(image)


def scores(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Scores of all pairs and their gradients, by the exact and by the fused implementation."""
    config = SimilarityConfig(params["aggregation"], params["head_aggregation"], params["nonneg"])
    for implementation in (dense, fused):
        audio, image = stored_features(params, tensors)
        computed = implementation.pairwise_similarity(audio, image, config)
        grad_audio, grad_image = torch.autograd.grad(computed, (audio.dense, image.dense), tensors["grad_scores"])
        yield {
            "scores": computed,
            "scores_by_head": implementation.similarity_per_head(audio, image, config),
            "grad_audio_features": grad_audio,
            "grad_image_features": grad_image,
        }


def paired_volume(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The similarity volume of the matching pairs and its maximum over heads."""
    volume = dense.paired_similarity(*stored_features(params, tensors))
    yield {"volume": volume, "head_max": volume.max(dim=1).values}
