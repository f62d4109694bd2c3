"""Golden cases of similarities: scores of all pairs with their gradients, volumes of the matching pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from model.similarity import dense, fused


def split_heads(params: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Audio [B, K, C, T] and image [B, K, C, H, W] features that require a gradient, from the stored [B, K*C, ...]."""
    audio, image = (
        tensors[name].unflatten(1, (params["num_heads"], -1)).requires_grad_()
        for name in ("audio_features", "image_features")
    )
    return audio, image


def scores(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Scores of all pairs and their gradients, by the exact and by the fused implementation."""
    for implementation in (dense, fused):
        audio, image = split_heads(params, tensors)
        mask, aggregation, nonneg = tensors["audio_mask"], params["aggregation"], params["nonneg"]
        computed = implementation.pairwise_similarity(
            audio, image, mask, aggregation, params["head_aggregation"], nonneg
        )
        grad_audio, grad_image = torch.autograd.grad(computed, (audio, image), tensors["grad_scores"])
        yield {
            "scores": computed,
            "scores_by_head": implementation.similarity_per_head(audio, image, mask, aggregation, nonneg),
            "grad_audio_features": grad_audio,
            "grad_image_features": grad_image,
        }


def paired_volume(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The similarity volume of the matching pairs and its maximum over heads."""
    volume = dense.paired_similarity(*split_heads(params, tensors), tensors["audio_mask"])
    yield {"volume": volume, "head_max": volume.max(dim=1).values}
