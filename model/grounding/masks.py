"""Masks and weights at the sample rate, brought to the steps of the audio features. Limits: steps are spread evenly over the waveform."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

VALID_ABOVE = 0.01


def step_weight(weight: Float[Tensor, "B S"], steps: int) -> Float[Tensor, "B T"]:
    """Resize a soft weight from samples to `steps` audio steps, linearly between the two samples around each step's centre.

    Args:
        weight: 0 to 1 for each sample.
        steps: T.

    Returns:
        0 to 1 for each step; a row of zeros stays a row of zeros.

    Source: reference 1.2 (soft positive mask).
    """
    return functional.interpolate(weight[:, None], size=steps, mode="linear", align_corners=False)[:, 0]


def step_mask(waveform_mask: Bool[Tensor, "B S"], steps: int, generator: torch.Generator | None = None) -> Bool[Tensor, "B T"]:
    """Bring a mask (True = valid sample) to `steps` audio steps.

    Args:
        waveform_mask: True where the sample is sound.
        steps: T.
        generator: draws the step of an empty row; None: torch's own on the CPU. One number is drawn for each row, used or not.

    Returns:
        True where the resized mask exceeds 0.01. A row left empty gets one random True step, so that every clip has a score.

    Source: reference 1.2.
    """
    mask = step_weight(waveform_mask.float(), steps) > VALID_ABOVE
    device = generator.device if generator is not None else torch.device("cpu")
    drawn = torch.randint(steps, (len(mask), 1), generator=generator, device=device).to(mask.device)
    only_drawn = torch.arange(steps, device=mask.device) == drawn
    return torch.where(mask.any(dim=1, keepdim=True), mask, only_drawn)
