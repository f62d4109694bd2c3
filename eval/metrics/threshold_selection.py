"""A threshold is a setting: chosen on the very items it is judged by, it flatters. Here it can be chosen on one half of a set and judged on the other.

Source: our own; the field chooses on the test set (reference 1.6).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def validation_mask(names: Sequence[str]) -> Bool[Tensor, "N"]:
    """Which items a threshold is chosen on: about half of the names, by a hash of the name, so that it is the same half everywhere and for ever.

    Items that belong together (frames of a video) get the same name.
    """
    return torch.tensor(
        [hashlib.blake2b(name.encode(), digest_size=1).digest()[0] < 128 for name in names], dtype=torch.bool
    )


def best_threshold(curves: Float[Tensor, "N Q"]) -> int:
    """The place of the threshold with the largest mean over items, the first of equal ones; NaN items are not counted, and none at all gives 0."""
    return int(curves.nanmean(dim=0).nan_to_num(nan=0).argmax())
