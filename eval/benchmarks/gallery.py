"""The pairs of an evaluation split that retrieval and disentanglement look at: drawn by a fixed permutation, encoded once for each model."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model.grounding.denseav import DenseAV
from pipelines.stream.batch import Item, collate
from pipelines.stream.index import DatasetIndex
from pipelines.stream.reader import ClipReader, UnreadableClip


class PairFeatures(NamedTuple):
    """Features of matching pairs; `mask` is True at valid steps."""

    audio: Float[Tensor, "B K C T"]
    mask: Bool[Tensor, "B T"]
    image: Float[Tensor, "B K C H W"]


class Gallery:
    """Pairs of a frame and a sound from a folder of shards.

    Args:
        folder: shards of an evaluation split.
        size: at most this many pairs; fewer where the split is smaller.
        batch_size: pairs encoded at once.
        seed: of the permutation, and of the one frame drawn of each clip.

    Raises:
        UsageError: not a complete data set.

    Source: reference 1.6.
    """

    def __init__(self, folder: str, size: int, batch_size: int, seed: int) -> None:
        self.index = DatasetIndex.open(folder)
        self.size, self.batch_size, self.seed = min(size, self.index.clips), batch_size, seed
        self.left_out: Counter[str] = Counter()
        self._encoded: tuple[weakref.ref[DenseAV], PairFeatures] | None = None

    @torch.inference_mode()
    def encode(self, model: DenseAV) -> PairFeatures:
        """Features of all pairs, in the order of the permutation; kept until another model asks."""
        if self._encoded is None or self._encoded[0]() is not model:
            device = next(model.parameters()).device
            items = self._read(model)
            parts = []
            for start in range(0, len(items), self.batch_size):
                batch = collate(items[start : start + self.batch_size]).to(device)
                image, audio = model.encode_image(batch.frames), model.encode_audio(batch.waveform, batch.audio_mask)
                parts.append((audio.dense.float(), audio.mask, image.dense.float()))
            self._encoded = weakref.ref(model), PairFeatures(*(torch.cat(column) for column in zip(*parts, strict=True)))
        return self._encoded[1]

    def _read(self, model: DenseAV) -> list[Item]:
        """The first readable clips of the permutation; those passed over are counted by reason."""
        reader = ClipReader(self.index, *model.inputs)
        items: list[Item] = []
        self.left_out.clear()
        for clip in np.random.default_rng(self.seed).permutation(self.index.clips).tolist():
            if len(items) == self.size:
                break
            frames = len(reader.frame_names(clip))
            try:
                items.append(reader.evaluation_item(clip, int(np.random.default_rng([self.seed, clip]).integers(max(1, frames)))))
            except UnreadableClip as error:
                self.left_out[error.reason] += 1
        return items
