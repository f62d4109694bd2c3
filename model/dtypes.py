"""Precision: sums, softmaxes and losses are computed in float32 or float64, also for features in half precision."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def upcast_half(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Convert half precision to float32; float32 and float64 are returned unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
