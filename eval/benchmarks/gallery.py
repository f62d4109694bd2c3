"""The pairs of an evaluation split that retrieval and disentanglement look at: drawn by a fixed permutation, encoded once for each model."""

from __future__ import annotations

import weakref
from collections import Counter
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from configs.command import UsageError
from eval.parallel import Columns, in_batches
from model.grounding.denseav import AudioFeatures, DenseAV, ImageFeatures, InputSpec, each, joined
from pipelines.stream.augment import padded
from pipelines.stream.batch import Item, collate
from pipelines.stream.index import DatasetIndex
from pipelines.stream.reader import ClipReader, UnreadableClip

_READABLE = -1


class PairFeatures(NamedTuple):
    """Features of matching pairs."""

    image: ImageFeatures
    audio: AudioFeatures


class Gallery:
    """Pairs of a frame and a sound from a folder of shards.

    Args:
        folder: shards of an evaluation split.
        size: at most this many pairs; fewer where the split is smaller.
        batch_size: pairs encoded at once.
        seed: of the permutation, and of the one frame drawn of each clip.

    Attributes:
        clips: their numbers in `index`, in order, once encoded.
        left_out: clips of the permutation that could not be read, by reason.

    Raises:
        UsageError: not a complete data set.

    Source: reference 1.6.
    """

    def __init__(self, folder: str, size: int, batch_size: int, seed: int) -> None:
        self.index = DatasetIndex.open(folder)
        self.size, self.batch_size, self.seed = min(size, self.index.clips), batch_size, seed
        self.clips: list[int] = []
        self.left_out: Counter[str] = Counter()
        self._encoded: tuple[weakref.ref[DenseAV], PairFeatures] | None = None

    def encode(self, model: DenseAV) -> PairFeatures:
        """Features of all pairs, in the order of the permutation, on every rank; kept until another model asks, or this one is gone.

        Raises:
            UsageError: no clip can be read.
        """
        if self._encoded is None or self._encoded[0]() is not model:
            self._encoded = weakref.ref(model, self._forget), self._encode(model)
        return self._encoded[1]

    @torch.inference_mode()
    def _encode(self, model: DenseAV) -> PairFeatures:
        """The first readable clips of the permutation; those passed over are counted by reason. In the place of each, another one is tried."""
        reader = ClipReader(self.index, *model.inputs)
        waiting = np.random.default_rng(self.seed).permutation(self.index.clips).tolist()
        self.clips, self.left_out, parts = [], Counter(), []
        while waiting and len(self.clips) < self.size:
            tried, waiting = waiting[: self.size - len(self.clips)], waiting[self.size - len(self.clips) :]
            reasons, *columns = in_batches(len(tried), self.batch_size, partial(self._features, model, reader, tried), "encoding")
            readable = [row for row, reason in enumerate(reasons.tolist()) if reason == _READABLE]
            self.clips += [tried[row] for row in readable]
            self.left_out.update(UnreadableClip.REASONS[reason] for reason in reasons.tolist() if reason != _READABLE)
            features = ImageFeatures(*columns[:2]), AudioFeatures(*columns[2:])
            parts.append([each(part, lambda tensor, rows=readable: tensor[rows]) for part in features])
        if not self.clips:
            raise UsageError(f"{self.index.folder}: none of its clips can be read ({', '.join(f'{n} {why}' for why, n in self.left_out.items())})")
        return PairFeatures(*map(joined, zip(*parts, strict=True)))

    def item(self, reader: ClipReader, clip: int) -> Item:
        """A clip with the one frame that is drawn of it. Raises UnreadableClip."""
        frames = len(reader.frame_names(clip))
        return reader.evaluation_item(clip, int(np.random.default_rng([self.seed, clip]).integers(max(1, frames))))

    def _features(self, model: DenseAV, reader: ClipReader, clips: list[int], rows: range) -> Columns:
        """Of each clip why it cannot be read (its number in REASONS, or _READABLE), and features, which mean nothing then: every batch is of full size."""
        reasons, items = [], []
        for row in rows:
            try:
                items.append(self.item(reader, clips[row]))
                reasons.append(_READABLE)
            except UnreadableClip as error:
                items.append(_nothing(model.inputs))
                reasons.append(UnreadableClip.REASONS.index(error.reason))
        batch = collate(items).to(next(model.parameters()).device)
        return [torch.tensor(reasons), *model.encode_image(batch.frames), *model.encode_audio(batch.waveform, batch.audio_mask)]

    def _forget(self, _model: weakref.ref[DenseAV]) -> None:
        self._encoded = None


def _nothing(inputs: InputSpec) -> Item:
    """In the place of a clip that cannot be read."""
    waveform, mask = padded(np.zeros(0, np.float32), round(inputs.clip_duration_s * inputs.sample_rate_hz))
    frame = torch.zeros(3, inputs.image_size_px, inputs.image_size_px, dtype=torch.uint8)
    return Item(frame, waveform, mask, np.ones_like(waveform), torch.ones(frame.shape[1:]), 0, "")
