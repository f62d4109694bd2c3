"""Recall@k of a square matrix of scores."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Scores compared at once: what is held beside the matrix is a small share of it.
AT_ONCE = 2**24


def recall_at_k(scores: Float[Tensor, "Q G"], k: int) -> float:
    """Share of the queries (rows) whose own item (same column number) is among the k best of their row.

    Args:
        scores: queries by gallery, the matching pairs on the diagonal.
        k: at least 1.

    Returns:
        0 to 1. An item that scores the same as the own one counts as better, so a constant matrix gives 0 (1 when k reaches the gallery).

    Raises:
        ValueError: an empty or not square matrix, or one that holds NaN.

    Source: reference 1.6.
    """
    return (ranks(scores) <= k).double().mean().item()


def ranks(scores: Float[Tensor, "Q G"]) -> Int[Tensor, "Q"]:
    """The place of each query's own item in its row, 1 is best. Args, ties and Raises as `recall_at_k`. Source: reference 1.6."""
    if not len(scores) or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"recall@k needs a square matrix of scores, this one is {tuple(scores.shape)}")
    rows = max(1, AT_ONCE // len(scores))
    if wrong := sum(int(part.isnan().sum()) for part in scores.split(rows)):
        raise ValueError(f"recall@k: {wrong} of {scores.numel()} scores are NaN")
    own = scores.diagonal()[:, None].split(rows)
    return torch.cat([(part >= own_part).sum(dim=1) for part, own_part in zip(scores.split(rows), own, strict=True)])
