"""From positions of the order to a batch: read, change at random, replace what cannot be read. The same bits in whatever process it runs.

Loader workers import this module: it needs torch, torchvision and numpy, nothing of the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from configs.errors import CommandFailed, UsageError
from configs.schema import AugmentConfig
from pipelines.stream import augment
from pipelines.stream.batch import Batch, Example, collate
from pipelines.stream.reader import ClipReader, UnreadableClip
from pipelines.stream.sampler import DeterministicSampler, seeded_rng

# Clips with less sound than this share of the configured length are left out (reference 1.4).
MIN_AUDIO_FRACTION = 0.04
# One clip to splice and three to mix in, and some to try where these cannot be read.
NUM_MIX_CANDIDATES = 8


class ClipDataset(Dataset):
    """Map-style: a list of positions, one rank's part of one global batch, gives a Batch.

    Args:
        readers: one for each source of the order.
        order: which clip is where.
        settings: augmentation.
        seed: of the augmentation; all randomness of a position is a function of (seed, position).
    """

    def __init__(
        self, readers: Sequence[ClipReader], order: DeterministicSampler, settings: AugmentConfig, seed: int
    ) -> None:
        self.readers, self.order, self.settings, self.seed = list(readers), order, settings, seed
        self._image_augmentation = augment.ImageAugmentation(settings, self.readers[0].image_size_px)

    def __getitems__(self, positions: Sequence[int]) -> Batch | UsageError | CommandFailed:
        """Make a batch. What stops the run comes back as a value: raised in a worker it would reach the user as a stack trace."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums over pixels are otherwise added up in another order
        rejected: Counter[str] = Counter()
        try:
            return collate([self.item(position, rejected) for position in positions], rejected)
        except (UsageError, CommandFailed) as error:
            return error
        finally:
            torch.set_num_threads(threads)

    def item(self, position: int, rejected: Counter[str]) -> Example:
        """The training item at a position, or that of the first replacement that can be read.

        Args:
            rejected: what could not be used is counted here by reason; companions, which are only mixed in, as `mix_partner_REASON`.

        Raises:
            UsageError: no clip of the lane can be read, or the sample rate is another.
        """
        source = self.order.place(position).source
        for clip in self._candidates(position, rejected):
            try:
                return self._training_item(self.readers[source], clip, position, rejected)
            except UnreadableClip as error:
                rejected[error.reason] += 1
        folder = self.readers[source].index.folder
        raise UsageError(
            f"{folder}: no readable clip is left to replace others ({_listed(rejected)}); python -m pipelines.verify {folder} tells what is damaged"
        )

    def _candidates(self, position: int, rejected: Counter[str]) -> Iterator[int]:
        assigned = self.order.assigned(position)
        if assigned != self.order.clip(position)[1]:
            rejected["duplicate_in_batch"] += 1
        yield assigned
        attempt = 0
        while (clip := self.order.replacement(position, attempt)) is not None:
            yield clip
            attempt += 1

    def _training_item(self, reader: ClipReader, clip: int, position: int, rejected: Counter[str]) -> Example:
        settings, rng = self.settings, seeded_rng(self.seed, "item", position)
        sound = reader.waveform(clip)
        if len(sound) < MIN_AUDIO_FRACTION * reader.samples:
            raise UnreadableClip("too_short", f"clip {reader.index.id(clip)} has {len(sound)} samples")
        frame = self._random_frame(reader, clip, rng)
        image_weight = torch.ones(frame.shape[-2:])
        mix_partners = iter([other for other in self.order.mix_partners(position, NUM_MIX_CANDIDATES) if other != clip])

        if settings.quad_mixup_probability and rng.random() < settings.quad_mixup_probability:
            others = list(_readable(mix_partners, 3, lambda other: self._random_frame(reader, other, rng), rejected))
            if len(others) == 3:
                frame, image_weight = augment.quad_mixup(frame, others, rng)

        waveform, mask = augment.pad_or_crop(sound, reader.samples)
        positive_weight = np.ones(reader.samples, dtype=np.float32)
        if settings.audio_splice_max_s:
            for other in _readable(mix_partners, 1, reader.waveform, rejected):
                waveform, positive_weight = augment.splice(waveform, mask, other, rng, settings, reader.sample_rate_hz)
        if settings.time_mask_probability and rng.random() < settings.time_mask_probability:
            waveform, mask = augment.random_time_window(
                waveform, mask, rng, round(settings.time_mask_min_s * reader.sample_rate_hz)
            )
        return Example(
            frame, waveform, mask, positive_weight, image_weight, reader.source, reader.index.id(clip), position
        )

    def _random_frame(self, reader: ClipReader, clip: int, rng: np.random.Generator) -> torch.Tensor:
        """One of the clip's pictures, augmented."""
        frames = len(reader.frame_names(clip))
        return self._image_augmentation(reader.frame(clip, int(rng.integers(max(frames, 1)))), rng)


def _readable(clips: Iterator[int], count: int, read, rejected: Counter[str]) -> Iterator:
    """Up to `count` results of `read`, trying one clip after the other."""
    found = 0
    while found < count and (clip := next(clips, None)) is not None:
        try:
            result = read(clip)
        except UnreadableClip as error:
            rejected[f"mix_partner_{error.reason}"] += 1
            continue
        found += 1
        yield result


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
