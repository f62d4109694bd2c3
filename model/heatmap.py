"""Pooling of similarity volumes into heatmaps: maximum over heads, mean over audio steps. All heatmaps come from it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def pool_volume(
    volume: Float[Tensor, "B K H W T"],
    step_weight: Bool[Tensor, "B T"] | Float[Tensor, "B T"],
    per_head: bool = False,
) -> Float[Tensor, "B H W"] | Float[Tensor, "B K H W"]:
    """Maximum over heads, then the weighted mean over the audio steps.

    Args:
        volume: similarities of matching pairs, 0 at masked-out steps.
        step_weight: weight of each step, 0 or more. The audio mask gives the map of the whole clip, the window of a
            word that of the word (masked-out steps in it count as 0), two neighboring steps the map of a moment between
            them.
        per_head: one map for each head instead of their maximum.

    Returns:
        Any range; 0 for a clip whose weights are all 0.

    Source: reference 1.6.
    """
    values = volume if per_head else volume.max(dim=1).values
    weight = step_weight.view(len(step_weight), *[1] * (values.ndim - 2), -1).to(values.dtype)
    return (values * weight).sum(dim=-1) / weight.sum(dim=-1).clamp(min=torch.finfo(values.dtype).tiny)
