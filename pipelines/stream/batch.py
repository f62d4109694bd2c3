"""What the model gets: the items of one rank's part of one global batch, stacked."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch


class Example(NamedTuple):
    """One clip, as in Batch but with the picture as uint8 [3, H_px, W_px]."""

    frame: torch.Tensor
    waveform: np.ndarray
    audio_mask: np.ndarray
    audio_positive_weight: np.ndarray
    image_weight: torch.Tensor
    source: int
    id: str
    position: int = -1


@dataclass
class Batch:
    """Matching pairs of a frame and a waveform; row b of every field belongs to the same clip.

    Attributes:
        frames: uint8 [B, 3, H_px, W_px], RGB.
        waveform: [B, S], -1 to 1, not normalised.
        audio_mask: [B, S] bool, True = sound of this clip or spliced into it, False = padding or masked out (the waveform is 0 there).
        audio_positive_weight: [B, S], 1 = this clip's own sound, 0 = another's, a cosine between.
        image_weight: [B, H_px, W_px], 1 = this clip's own picture, 0 = another's.
        source: [B] int64, number of the source in the settings.
        id: of each clip.
        position: of each clip in the order; -1 outside training.
        rejected: how many clips could not be used while the batch was made, by reason.
    """

    frames: torch.Tensor
    waveform: torch.Tensor
    audio_mask: torch.Tensor
    audio_positive_weight: torch.Tensor
    image_weight: torch.Tensor
    source: torch.Tensor
    id: list[str]
    position: list[int]
    rejected: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.id)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return dataclasses.replace(self, **tensors)


def collate(items: Sequence[Example], rejected: Counter[str] | None = None) -> Batch:
    """Stack at least one item."""
    return Batch(
        frames=torch.stack([item.frame for item in items]),
        waveform=torch.from_numpy(np.stack([item.waveform for item in items])),
        audio_mask=torch.from_numpy(np.stack([item.audio_mask for item in items])),
        audio_positive_weight=torch.from_numpy(np.stack([item.audio_positive_weight for item in items])),
        image_weight=torch.stack([item.image_weight for item in items]),
        source=torch.tensor([item.source for item in items]),
        id=[item.id for item in items],
        position=[item.position for item in items],
        rejected=Counter() if rejected is None else rejected,
    )
