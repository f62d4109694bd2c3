"""The pairs of an evaluation split that retrieval and disentanglement look at: drawn by a fixed permutation, encoded once for each model."""

from __future__ import annotations

import weakref
from collections import Counter
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from configs.errors import UsageError
from eval.benchmarks.retrieval.feature_cache import FeatureCache
from eval.distributed import Columns, distributed_map
from model.denseav import DenseAV
from model.features import AudioFeatures, ImageFeatures
from model.inputs import InputSpec
from pipelines.stream.augment import pad_or_crop
from pipelines.stream.batch import Example, collate
from pipelines.stream.index import DatasetIndex
from pipelines.stream.reader import ClipReader, UnreadableClip

_READABLE = -1
# In the order in which `_features` gives them.
_PARTS = {"image": ImageFeatures, "audio": AudioFeatures}


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
        kept: features from run to run; None: they are always encoded.

    Attributes:
        clips: their numbers in `index`, in order, once encoded.
        left_out: clips of the permutation that could not be read, by reason.

    Raises:
        UsageError: not a complete data set.

    Source: reference 1.6.
    """

    def __init__(self, folder: str, size: int, batch_size: int, seed: int, kept: FeatureCache | None = None) -> None:
        self.index = DatasetIndex.open(folder)
        self.size, self.batch_size, self.seed, self.kept = min(size, self.index.clips), batch_size, seed, kept
        self.clips: list[int] = []
        self.left_out: Counter[str] = Counter()
        self._encoded: tuple[weakref.ref[DenseAV], PairFeatures] | None = None

    def encode(self, model: DenseAV) -> PairFeatures:
        """Features of all pairs, in the order of the permutation, on every rank; kept until another model asks, or this one is gone.

        Raises:
            UsageError: no clip can be read.
        """
        if self._encoded is None or self._encoded[0]() is not model:
            self._encoded = weakref.ref(model, self._forget), self._features_of(model)
        return self._encoded[1]

    def counts(self) -> dict[str, int]:
        """For the report: clips passed over by reason, and clips whose id was there before. Such a pair is a wrong answer to the other one."""
        ids = [self.index.id(clip) for clip in self.clips]
        return {"duplicates": len(ids) - len(set(ids))} | {
            f"left_out_{why}": n for why, n in sorted(self.left_out.items())
        }

    def _features_of(self, model: DenseAV) -> PairFeatures:
        """Encoded, or as they were kept."""
        if self.kept is None:
            tensors = self._encode(model)
        else:
            settings = {
                "data": self.index.fingerprint,
                "size": self.size,
                "batch_size": self.batch_size,
                "seed": self.seed,
            }
            tensors = self.kept.get_or_compute(model, settings, lambda: self._encode(model))
        self.clips = tensors["clips"].tolist()
        self.left_out = Counter(
            {why: n for why, n in zip(UnreadableClip.REASONS, tensors["left_out"].tolist(), strict=True) if n}
        )
        return PairFeatures(
            *(kind(*(tensors.get(f"{part}.{name}") for name in kind._fields)) for part, kind in _PARTS.items())
        )

    @torch.inference_mode()
    def _encode(self, model: DenseAV) -> dict[str, Tensor]:
        """Features of the first readable clips of the permutation, by name, and which clips these are; those passed over are counted by reason.

        In the place of each of these another one is tried, and its features are written there: nothing is held twice.
        """
        reader = ClipReader(self.index, *model.inputs)
        waiting = np.random.default_rng(self.seed).permutation(self.index.clips).tolist()
        clips, left_out, found = [], torch.zeros(len(UnreadableClip.REASONS), dtype=torch.int64), []
        while waiting and len(clips) < self.size:
            tried, waiting = waiting[: self.size - len(clips)], waiting[self.size - len(clips) :]
            reasons, *columns = distributed_map(
                len(tried), self.batch_size, partial(self._features, model, reader, tried), "encoding"
            )
            found = found or columns
            for row in (reasons == _READABLE).nonzero()[:, 0].tolist():
                for column, whole in zip(columns, found, strict=True):
                    if column is not None:
                        whole[len(clips)] = column[row]
                clips.append(tried[row])
            left_out += reasons[reasons != _READABLE].bincount(minlength=len(left_out))
        if not clips:
            why = ", ".join(
                f"{n} {reason}" for reason, n in zip(UnreadableClip.REASONS, left_out.tolist(), strict=True) if n
            )
            raise UsageError(f"{self.index.folder}: none of its clips can be read ({why})")
        names = [f"{part}.{name}" for part, kind in _PARTS.items() for name in kind._fields]
        named = {name: column[: len(clips)] for name, column in zip(names, found, strict=True) if column is not None}
        return named | {"clips": torch.tensor(clips), "left_out": left_out}

    def item(self, reader: ClipReader, clip: int) -> Example:
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
                items.append(_placeholder_item(model.inputs))
                reasons.append(UnreadableClip.REASONS.index(error.reason))
        batch = collate(items).to(next(model.parameters()).device)
        return [
            torch.tensor(reasons),
            *model.encode_image(batch.frames),
            *model.encode_audio(batch.waveform, batch.audio_mask),
        ]

    def _forget(self, _model: weakref.ref[DenseAV]) -> None:
        self._encoded = None


def _placeholder_item(inputs: InputSpec) -> Example:
    """In the place of a clip that cannot be read."""
    waveform, mask = pad_or_crop(np.zeros(0, np.float32), round(inputs.clip_duration_s * inputs.sample_rate_hz))
    frame = torch.zeros(3, inputs.image_size_px, inputs.image_size_px, dtype=torch.uint8)
    return Example(frame, waveform, mask, np.ones_like(waveform), torch.ones(frame.shape[1:]), 0, "")
