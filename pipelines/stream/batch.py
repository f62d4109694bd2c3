"""The examples of one rank's part of one global batch: as a loader worker sends them, and on the device of training."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import torch

from configs.errors import CommandFailed
from pipelines.modalities import MODALITIES
from pipelines.modalities.modality import Fields
from pipelines.stream.device import is_out_of_memory, to_device


class Example(NamedTuple):
    """One clip: what its modalities made of it (`Modality.train` or `Modality.evaluate`), by their names."""

    fields: Mapping[str, Fields]
    source: int
    id: str
    position: int = -1


@dataclass
class Batch:
    """Matching pairs of a frame and audio; row b of every field belongs to the same clip.

    Attributes:
        frames: uint8 [B, 3, H_px, W_px], RGB; the image encoder normalizes them.
        audio: what the audio encoder reads (stream.audio). `waveform`: [B, S], -1 to 1, not normalized. `log_mel`: the
            stored spectrogram, float16 [B, N, 128], N steps of 10 ms.
        audio_mask: bool [B, S] or [B, N], True = audio of this clip or spliced into it, False = padding or masked out
            (the audio is silent there).
        audio_positive_weight: [B, S] or [B, N], 1 = this clip's audio, 0 = another's, a raised cosine between them.
        image_weight: [B, H_px, W_px], 1 = this clip's frame, 0 = another's.
        source: [B] int64, number of the source in the settings.
        id: of each clip.
        position: of each clip in the sample order; -1 outside training.
        rejected: number of clips that could not be used for this batch, by reason.
        extra: tensors [B, ...] of further stored modalities, by the names of their fields.
    """

    frames: torch.Tensor
    audio: torch.Tensor
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


@dataclass
class HostBatch:
    """A batch as a loader worker sends it: crops, 16-bit audio, and the few numbers that the device augments them with.

    Attributes:
        fields: what `Modality.collate` returned, by modality; tensors on the CPU.
        source, id, position, rejected: as in `Batch`.
        worker_s: time in which it was read, decoded and cropped.
        worker_cpu_s: CPU time of that; the remainder is waiting for a disk, a store or a core.
    """

    fields: dict[str, dict[str, torch.Tensor]]
    source: torch.Tensor
    id: list[str]
    position: list[int]
    rejected: Counter[str]
    worker_s: float = 0.0
    worker_cpu_s: float = 0.0

    def __len__(self) -> int:
        return len(self.id)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device, which augments it; a GPU is not waited for.

        Each row is a function of its own fields, the same on every device within rounding.

        Raises:
            CommandFailed: the device has too little memory.
        """
        device = torch.device(device)
        core: dict[str, torch.Tensor] = {}
        extra: dict[str, torch.Tensor] = {}
        try:
            for modality in MODALITIES:
                if modality.name in self.fields:
                    made = modality.to_batch(self.fields[modality.name], device)
                    (core if modality.name in ("frames", "waveform", "mel") else extra).update(made)
            source = to_device(self.source, device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise CommandFailed(
                f"{device} has too little memory to augment a batch of {len(self)} clips: use a smaller "
                "global_batch_size with more gradient_accumulation_steps"
            ) from None
        return Batch(**core, source=source, id=self.id, position=self.position, rejected=self.rejected, extra=extra)


def collate(examples: Sequence[Example], rejected: Counter[str] | None = None) -> HostBatch:
    """Stack one or more examples."""
    stacked = {
        modality.name: modality.collate([example.fields[modality.name] for example in examples])
        for modality in MODALITIES
        if all(modality.name in example.fields for example in examples)
    }
    return HostBatch(
        fields=stacked,
        source=torch.tensor([example.source for example in examples]),
        id=[example.id for example in examples],
        position=[example.position for example in examples],
        rejected=Counter() if rejected is None else rejected,
    )
