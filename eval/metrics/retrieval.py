"""Recall@k of a square matrix of scores."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


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
    if not len(scores) or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"recall@k needs a square matrix of scores, this one is {tuple(scores.shape)}")
    if scores.isnan().any():
        raise ValueError(f"recall@k: {int(scores.isnan().sum())} of {scores.numel()} scores are NaN")
    not_worse = (scores >= scores.diagonal()[:, None]).sum(dim=1)
    return (not_worse <= k).double().mean().item()
