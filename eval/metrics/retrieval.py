"""Recall@k of a square matrix of scores."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Scores compared at once, so that temporary memory is small compared with the matrix.
CHUNK_SCORES = 2**24


def recall_at_k(scores: Float[Tensor, "Q G"], k: int) -> float:
    """Fraction of the queries (rows) whose match (the column of the same number) is among the k best of the row.

    Args:
        scores: queries by gallery, with the matching pairs on the diagonal.
        k: at least 1.

    Returns:
        0 to 1. An item with the score of the match counts as better, so a constant matrix gives 0 (1 if k is the
        gallery size).

    Raises:
        ValueError: an empty or non-square matrix, or NaN scores.

    Source: reference 1.6.
    """
    return (ranks(scores) <= k).double().mean().item()


def ranks(scores: Float[Tensor, "Q G"]) -> Int[Tensor, "Q"]:
    """The rank of each query's match in its row, 1 is best.

    Args, ties and Raises as `recall_at_k`. Source: reference 1.6.
    """
    if not len(scores) or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"recall@k needs a square matrix of scores, got shape {tuple(scores.shape)}")
    rows = max(1, CHUNK_SCORES // len(scores))
    if count := sum(int(chunk.isnan().sum()) for chunk in scores.split(rows)):
        raise ValueError(f"recall@k: {count} of {scores.numel()} scores are NaN")
    matches = scores.diagonal()[:, None].split(rows)
    return torch.cat([(chunk >= own).sum(dim=1) for chunk, own in zip(scores.split(rows), matches, strict=True)])
