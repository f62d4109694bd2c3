"""Numbers that must not be rounded: sums, softmaxes and losses are computed in float32 at least, whatever the features come in."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def upcast_half(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Half precision to float32; float32 and float64 stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
