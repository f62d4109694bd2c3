"""The examples of one rank's part of one global batch, stacked."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from pipelines.modalities import MODALITIES
from pipelines.modalities.modality import Fields, stack


class Example(NamedTuple):
    """One clip: the fields of `Batch` without their first dimension; `extra`: fields by modality."""

    frame: torch.Tensor
    waveform: np.ndarray
    audio_mask: np.ndarray
    audio_positive_weight: np.ndarray
    image_weight: torch.Tensor
    source: int
    id: str
    position: int = -1
    extra: Mapping[str, Fields] = MappingProxyType({})


@dataclass
class Batch:
    """Matching pairs of a frame and a waveform; row b of every field belongs to the same clip.

    Attributes:
        frames: uint8 [B, 3, H_px, W_px], RGB; the image encoder normalizes them.
        waveform: [B, S], -1 to 1, not normalized. With stream.audio=log_mel: the log-mel spectrogram, float16
            [B, N, 128], and masks and weights are [B, N] too.
        audio_mask: [B, S] bool, True = audio of this clip or spliced into it, False = padding or masked out (the
            waveform is 0 there).
        audio_positive_weight: [B, S], 1 = this clip's audio, 0 = another's, a raised cosine between them.
        image_weight: [B, H_px, W_px], 1 = this clip's frame, 0 = another's.
        source: [B] int64, number of the source in the settings.
        id: of each clip.
        position: of each clip in the sample order; -1 outside training.
        rejected: number of clips that could not be used for this batch, by reason.
        extra: tensors [B, ...] of further stored modalities, by the names of their fields.
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
    extra: dict[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.id)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return dataclasses.replace(self, **moved, extra={name: value.to(device) for name, value in self.extra.items()})


def collate(examples: Sequence[Example], rejected: Counter[str] | None = None) -> Batch:
    """Stack one or more examples."""
    extra: dict[str, torch.Tensor] = {}
    for modality in MODALITIES:
        if modality.name in examples[0].extra:
            extra |= modality.collate([example.extra[modality.name] for example in examples])
    return Batch(
        frames=torch.stack([example.frame for example in examples]),
        waveform=stack([example.waveform for example in examples]),
        audio_mask=stack([example.audio_mask for example in examples]),
        audio_positive_weight=stack([example.audio_positive_weight for example in examples]),
        image_weight=torch.stack([example.image_weight for example in examples]),
        source=torch.tensor([example.source for example in examples]),
        id=[example.id for example in examples],
        position=[example.position for example in examples],
        rejected=Counter() if rejected is None else rejected,
        extra=extra,
    )
