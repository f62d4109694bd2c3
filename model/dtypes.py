"""Dtypes: sums, softmaxes and losses are computed in float32 at least, whatever dtype the features have."""

import torch
from jaxtyping import Shaped
from torch import Tensor


def upcast_half(x: Shaped[Tensor, "*n"]) -> Shaped[Tensor, "*n"]:
    """Convert float16 and bfloat16 to float32; other dtypes, masks too, stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_floating_point() else x
