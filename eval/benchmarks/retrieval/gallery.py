"""The pairs of an evaluation split for retrieval and disentanglement, encoded once for each model."""

from collections import Counter
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from configs.errors import UsageError
from eval.benchmarks.retrieval.feature_cache import FeatureCache
from eval.distributed import distributed_map
from model.denseav import DenseAV
from model.features import AudioFeatures, ImageFeatures
from pipelines.stream.batch import Example, collate
from pipelines.stream.index import DatasetIndex
from pipelines.stream.reader import ClipReader, UnreadableClip

_READABLE = -1


class PairFeatures(NamedTuple):
    """Features of matching pairs."""

    image: ImageFeatures
    audio: AudioFeatures


class Gallery:
    """Pairs of a frame and a waveform from a folder of shards.

    Args:
        folder: shards of an evaluation split.
        size: at most this many pairs; fewer if the split is smaller.
        batch_size: pairs encoded at once.
        seed: of the permutation, and of the one frame drawn from each clip.
        cache: keeps features between runs; None: they are always encoded.
        audio: what is read: waveform, or log_mel, the stored spectrogram.

    Attributes:
        clips: their numbers in `index`, in order, once encoded.
        left_out: clips of the permutation that could not be read, by reason.

    Raises:
        UsageError: not a complete data set, or one that does not store this audio.

    Source: reference 1.6.
    """

    def __init__(
        self,
        folder: str,
        size: int,
        batch_size: int,
        seed: int,
        cache: FeatureCache | None = None,
        audio: str = "waveform",
    ) -> None:
        self.index, self.audio = DatasetIndex.open(folder), audio
        ClipReader(self.index, 1, 1.0, 1, audio=audio).check_audio_is_stored()
        self.size, self.batch_size, self.seed, self.cache = min(size, self.index.clips), batch_size, seed, cache
        self.clips: list[int] = []
        self.left_out: Counter[str] = Counter()
        self._encoded: WeakKeyDictionary[DenseAV, PairFeatures] = WeakKeyDictionary()

    def encode(self, model: DenseAV) -> PairFeatures:
        """Features of all pairs, in the order of the permutation, on every rank.

        They are held until another model is given or this one is deleted.

        Raises:
            UsageError: no clip can be read.
        """
        if model not in self._encoded:
            self._encoded.clear()
            self._encoded[model] = self._load_or_encode(model)
        return self._encoded[model]

    def counts(self) -> dict[str, int]:
        """Counts of unreadable clips by reason, and of pairs with a repeated id (wrong answers to each other)."""
        ids = [self.index.id(clip) for clip in self.clips]
        left_out = {f"left_out_{reason}": n for reason, n in sorted(self.left_out.items())}
        return {"duplicates": len(ids) - len(set(ids))} | left_out

    def reader(self, model: DenseAV) -> ClipReader:
        """A reader of the clips in the sizes of a model's inputs.

        Raises:
            UsageError: the data set does not store the audio that is read, or the model does not take log-mel.
        """
        if self.audio == "log_mel" and not model.audio_encoder.reads_log_mel:
            raise UsageError(
                f"audio=log_mel: {type(model.audio_encoder).__name__}, the audio encoder of this model, reads waveforms"
                "; model.audio_encoder=mel:NAME reads log-mel"
            )
        reader = ClipReader(self.index, *model.inputs, audio=self.audio)
        reader.check_audio()
        return reader

    def item(self, reader: ClipReader, clip: int) -> Example:
        """A clip with the one frame that is drawn from it. Raises UnreadableClip."""
        frames = max(1, len(reader.frame_names(clip)))
        return reader.evaluation_item(clip, int(np.random.default_rng([self.seed, clip]).integers(frames)))

    def _load_or_encode(self, model: DenseAV) -> PairFeatures:
        settings = {
            "data": self.index.fingerprint,
            "size": self.size,
            "batch_size": self.batch_size,
            "seed": self.seed,
            **({} if self.audio == "waveform" else {"audio": self.audio}),
        }
        encode = partial(self._encode, model)
        tensors = self.cache.get_or_compute(model, settings, encode) if self.cache else encode()
        self.clips = tensors["clips"].tolist()
        self.left_out = _by_reason(tensors["left_out"])
        return PairFeatures(
            ImageFeatures(tensors["image.dense"], tensors.get("image.cls")),
            AudioFeatures(tensors["audio.dense"], tensors["audio.mask"], tensors.get("audio.cls")),
        )

    @torch.inference_mode()
    def _encode(self, model: DenseAV) -> dict[str, Tensor]:
        """Features of the first readable clips of the permutation, their numbers (`clips`), and `left_out` by reason.

        An unreadable clip is replaced by the next of the permutation, whose features overwrite the placeholder's: no
        tensor is held twice.
        """
        reader = self.reader(model)
        remaining: list[int] = np.random.default_rng(self.seed).permutation(self.index.clips).tolist()
        clips: list[int] = []
        left_out = torch.zeros(len(UnreadableClip.REASONS), dtype=torch.int64)
        features: dict[str, Tensor] = {}
        while remaining and len(clips) < self.size:
            missing = self.size - len(clips)
            tried, remaining = remaining[:missing], remaining[missing:]
            encode_batch = partial(self._encode_batch, model, reader, tried)
            columns = distributed_map(len(tried), self.batch_size, encode_batch, "encoding")
            reasons = columns.pop("reasons")
            features = features or columns
            for row in (reasons == _READABLE).nonzero()[:, 0].tolist():
                for name, column in columns.items():
                    features[name][len(clips)] = column[row]
                clips.append(tried[row])
            left_out += reasons[reasons != _READABLE].bincount(minlength=len(left_out))
        if not clips:
            reasons_text = ", ".join(f"{n} {reason}" for reason, n in _by_reason(left_out).items())
            raise UsageError(f"{self.index.folder}: none of its clips can be read ({reasons_text})")
        return {name: tensor[: len(clips)] for name, tensor in features.items()} | {
            "clips": torch.tensor(clips),
            "left_out": left_out,
        }

    def _encode_batch(self, model: DenseAV, reader: ClipReader, clips: list[int], rows: range) -> dict[str, Tensor]:
        """For each clip `reasons`, why it is unreadable (its number in REASONS, or _READABLE), and its features.

        An unreadable clip has the features of a placeholder, so that every batch has its full size.
        """
        reasons, items = [], []
        for row in rows:
            try:
                items.append(self.item(reader, clips[row]))
                reasons.append(_READABLE)
            except UnreadableClip as error:
                items.append(reader.placeholder())
                reasons.append(UnreadableClip.REASONS.index(error.reason))
        batch = collate(items).to(next(model.parameters()).device)
        image, audio = model.encode_image(batch.frames), model.encode_audio(batch.audio, batch.audio_mask)
        features = {f"image.{name}": tensor for name, tensor in image._asdict().items()}
        features |= {f"audio.{name}": tensor for name, tensor in audio._asdict().items()}
        present = {name: tensor for name, tensor in features.items() if tensor is not None}
        return {"reasons": torch.tensor(reasons)} | present


def _by_reason(counts: Tensor) -> Counter[str]:
    return Counter({reason: n for reason, n in zip(UnreadableClip.REASONS, counts.tolist(), strict=True) if n})
