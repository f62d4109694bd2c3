"""Waveform, mask and positive weight of a batch, made on its device from int16 samples and a few integers."""

import math

import torch
from torch import Tensor

from pipelines.stream.device import rows_per_pass


def audio_fields(samples: Tensor, spans: Tensor) -> dict[str, Tensor]:
    """The audio fields of a batch.

    Args:
        samples: [B, S], int16, or float32 in -1 to 1; 0 outside the audio.
        spans: int64 [B, 5]: first sample of the audio, the one after its last, and first sample, length and fade of the
            splice (`pipelines.stream.augment_audio.Splice`).

    Returns:
        `audio`, the waveform, float32 [B, S], -1 to 1; `audio_mask` bool [B, S], True = valid; `audio_positive_weight`
        float32 [B, S], 1 outside the splice, a raised cosine at its ends, 0 between them.
    """
    waveform = samples.to(torch.float32).mul_(1 / 32768) if samples.dtype == torch.int16 else samples
    sample = torch.arange(samples.shape[1], device=samples.device, dtype=torch.float32)
    start, stop, offset, length, fade = spans.to(torch.float32)[:, :, None].unbind(dim=1)
    mask = sample >= start
    mask &= sample < stop
    weight, rows = torch.empty_like(waveform), rows_per_pass(samples.device)
    center, half, scale = offset + length / 2 - 0.5, length / 2, math.pi / fade.clamp(min=0.5)
    for part in zip(*(values.split(rows) for values in (weight, center, half, scale)), strict=True):
        _fade(sample, *part)
    return {"audio": waveform, "audio_mask": mask, "audio_positive_weight": weight}


def _fade(sample: Tensor, weight: Tensor, center: Tensor, half: Tensor, scale: Tensor) -> None:
    """Write the positive weight: the cosine of an angle that grows from 0 to pi with the depth in the splice."""
    depth = torch.sub(sample, center, out=weight).abs_().neg_().add_(half)  # from the nearer end; negative outside
    depth.mul_(scale).clamp_(0, math.pi).cos_().mul_(0.5).add_(0.5)
