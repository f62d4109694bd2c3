"""Masks and weights of waveforms, resized to the steps of the audio features.

Limits: steps are spread evenly over the waveform.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

VALID_THRESHOLD = 0.01


def downsample_weight(weight: Float[Tensor, "B S"], steps: int) -> Float[Tensor, "B T"]:
    """Resize a soft weight from samples to `steps` audio steps: linear interpolation at the center of each step.

    Args:
        weight: 0 to 1 for each sample.
        steps: T.

    Returns:
        0 to 1 for each step; a row of zeros stays a row of zeros.

    Source: reference 1.2 (soft positive mask).
    """
    return functional.interpolate(weight[:, None], size=steps, mode="linear", align_corners=False)[:, 0]


def downsample_mask(
    waveform_mask: Bool[Tensor, "B S"], steps: int, fallback_step: Float[Tensor, "B"] | None = None
) -> Bool[Tensor, "B T"]:
    """Resize a mask from samples to `steps` audio steps.

    Args:
        waveform_mask: True = valid sample.
        steps: T.
        fallback_step: 0 to 1, position of the one step that stays valid in a row without valid steps; None: the middle.

    Returns:
        True where the resized mask exceeds 0.01. Each row has at least one valid step, so every clip has a score.

    Source: reference 1.2, where the fallback step is random.
    """
    mask = downsample_weight(waveform_mask.float(), steps) > VALID_THRESHOLD
    fallback_step = torch.full((len(mask),), 0.5) if fallback_step is None else fallback_step
    index = (fallback_step * steps).long().clamp(max=steps - 1).to(mask.device)
    fallback = torch.arange(steps, device=mask.device) == index[:, None]
    return torch.where(mask.any(dim=1, keepdim=True), mask, fallback)
