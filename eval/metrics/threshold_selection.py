"""Select a threshold on one half of a test set and evaluate it on the other half.

Source: our own; the field selects thresholds on the whole test set (reference 1.6).
"""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def validation_mask(names: Sequence[str]) -> Bool[Tensor, "N"]:
    """The validation half of a test set: about half of the names, by a hash of the name, so that it never changes.

    Args:
        names: items that belong together (frames of a video) have the same name.

    Returns:
        True for the validation half.
    """
    return torch.tensor(
        [hashlib.blake2b(name.encode(), digest_size=1).digest()[0] < 128 for name in names], dtype=torch.bool
    )


def best_threshold(curves: Float[Tensor, "N Q"]) -> int:
    """Index of the threshold with the largest mean over items, ignoring NaN; the first of equal ones, else 0."""
    return int(curves.nanmean(dim=0).nan_to_num(nan=0).argmax())
