"""DenseAV: an image branch and an audio branch compared densely, patch by audio step, in K heads. Parts are built outside and passed in.

Source: reference 1.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from model.audio_mask import downsample_mask
from model.dtypes import upcast_half
from model.losses.contrastive import LogitScale
from model.similarity import dense, fused
from model.similarity.global_pooling import CLASS_TOKEN_AGGREGATIONS


class ImageFeatures(NamedTuple):
    """Projected image features, split into heads. `cls` is None without class tokens."""

    dense: Float[Tensor, "V K C H W"]
    cls: Float[Tensor, "V K C"] | None


class AudioFeatures(NamedTuple):
    """Projected audio features, split into heads; `mask` is True at valid steps. `cls` is None without class tokens."""

    dense: Float[Tensor, "A K C T"]
    mask: Bool[Tensor, "A T"]
    cls: Float[Tensor, "A K C"] | None


Features = TypeVar("Features", ImageFeatures, AudioFeatures)


def each(features: Features, function: Callable[[Tensor], Tensor]) -> Features:
    """The same features with every tensor changed: some rows, another device."""
    return type(features)(*[None if tensor is None else function(tensor) for tensor in features])


def concat_features(parts: Sequence[Features]) -> Features:
    """Features of several batches one after the other."""
    return type(parts[0])(*[None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)])


class InputSpec(NamedTuple):
    """What the model was built to see and hear: side of the square image, length and rate of the waveform."""

    image_size_px: int
    clip_duration_s: float
    sample_rate_hz: int


class SimilarityConfig(NamedTuple):
    """How a similarity volume becomes one score (model.similarity.dense)."""

    aggregation: str = "misa"
    head_aggregation: str = "max_elementwise"
    nonneg: bool = False
    use_cls: bool = False

    @property
    def needs_cls(self) -> bool:
        """Whether scores take class tokens at all."""
        return self.use_cls or self.aggregation in CLASS_TOKEN_AGGREGATIONS


class DenseAV(nn.Module):
    """The model of the paper around any two encoders.

    Args:
        image_encoder, audio_encoder: see model.encoders.tiny for the interface.
        image_projection, audio_projection: see model.projection.
        num_heads: K; divides the channels of both projections.
        image_pool_size: side of the average pooling of the image grid, in training only.
        inputs: sizes of the inputs, kept with the weights.
        scores: how scores are computed, kept with the weights.
        image_pooling, audio_pooling: model.similarity.simpool, whose vectors take the place of class tokens; None: the encoders' own.
        bias: where the learned bias of the logits starts; None: there is none.

    Source: reference 1.1.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        audio_encoder: nn.Module,
        image_projection: nn.Module,
        audio_projection: nn.Module,
        num_heads: int,
        image_pool_size: int,
        inputs: InputSpec,
        scores: SimilarityConfig,
        image_pooling: nn.Module | None = None,
        audio_pooling: nn.Module | None = None,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        self.image_encoder, self.audio_encoder = image_encoder, audio_encoder
        self.image_projection, self.audio_projection = image_projection, audio_projection
        self.num_heads, self.image_pool_size, self.inputs, self.similarity_config = (
            num_heads,
            image_pool_size,
            inputs,
            scores,
        )
        self.image_pooling, self.audio_pooling = image_pooling, audio_pooling
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def encode_image(self, frames: Float[Tensor, "V 3 H_px W_px"]) -> ImageFeatures:
        """Features of ImageNet-normalised frames, one cell for each patch (for `image_pool_size` x `image_pool_size` patches in training)."""
        dense, cls = self.image_projection(*self.image_encoder(frames))
        if self.training and self.image_pool_size > 1:
            dense = functional.avg_pool2d(dense, self.image_pool_size)
        if self.image_pooling is not None:
            cls = self.image_pooling(dense.flatten(2).transpose(1, 2))
        return ImageFeatures(self._split(dense), None if cls is None else self._split(cls))

    def encode_audio(
        self,
        waveform: Float[Tensor, "A S"],
        audio_mask: Bool[Tensor, "A S"],
        fallback_step: Float[Tensor, "A"] | None = None,
    ) -> AudioFeatures:
        """Features of waveforms in -1..1; a step is valid where `audio_mask` (True = sound) covers it.

        Args:
            fallback_step: 0 to 1, where the one step lies that stays valid in a row without any sound; None: in the middle.
        """
        dense, cls = self.audio_projection(*self.audio_encoder(waveform))
        mask = downsample_mask(audio_mask, dense.shape[-1], fallback_step)
        if self.audio_pooling is not None:
            cls = self.audio_pooling(dense.transpose(1, 2), mask)
        return AudioFeatures(self._split(dense), mask, None if cls is None else self._split(cls))

    def forward(
        self,
        frames: Float[Tensor, "B 3 H_px W_px"],
        waveform: Float[Tensor, "B S"],
        audio_mask: Bool[Tensor, "B S"],
        fallback_step: Float[Tensor, "B"] | None = None,
        grad_cache_chunk_size: int = 0,
    ) -> tuple[ImageFeatures, AudioFeatures, LogitScale]:
        """Both branches and the calibration: all the objective needs.

        Args:
            fallback_step: see encode_audio.
            grad_cache_chunk_size: pairs encoded at once. Of the others only the features are kept; the backward pass encodes them again, chunk after chunk,
                with the same random numbers (a gradient cache: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
                2021), so that memory does not grow with the batch. 0: all pairs at once, nothing is computed twice.
        """
        calibration = LogitScale(self.log_scale, self.bias)
        if not grad_cache_chunk_size or grad_cache_chunk_size >= len(frames):
            return *self._encode(frames, waveform, audio_mask, fallback_step), calibration
        parts = [part.split(grad_cache_chunk_size) for part in (frames, waveform, audio_mask)]
        lone_steps = [None] * len(parts[0]) if fallback_step is None else fallback_step.split(grad_cache_chunk_size)
        encoded = [
            checkpoint(self._encode, *chunk, use_reentrant=False) for chunk in zip(*parts, lone_steps, strict=True)
        ]
        image, audio = map(concat_features, zip(*encoded, strict=True))
        return image, audio, calibration

    def _encode(
        self, frames: Tensor, waveform: Tensor, audio_mask: Tensor, fallback_step: Tensor | None
    ) -> tuple[ImageFeatures, AudioFeatures]:
        return self.encode_image(frames), self.encode_audio(waveform, audio_mask, fallback_step)

    def _split(self, features: Float[Tensor, "B D *cells"]) -> Float[Tensor, "B K C *cells"]:
        return features.unflatten(1, (self.num_heads, -1))

    def paired_similarity(self, image: ImageFeatures, audio: AudioFeatures) -> Float[Tensor, "B K H W T"]:
        """Similarities of matching pairs, as this model scores them; 0 at masked-out steps."""
        image, audio, settings = (
            each(image, upcast_half),
            audio._replace(dense=upcast_half(audio.dense)),
            self.similarity_config,
        )
        cls = (upcast_half(audio.cls), image.cls) if settings.use_cls else (None, None)
        return dense.paired_similarity(audio.dense, image.dense, audio.mask, settings.nonneg, *cls)

    def similarity_per_head(self, image: ImageFeatures, audio: AudioFeatures) -> Float[Tensor, "A V K"]:
        """Score of every audio against every image for each head alone, as this model scores them."""
        settings = self.similarity_config
        cls = (audio.cls, image.cls) if settings.needs_cls else (None, None)
        return fused.similarity_per_head(
            audio.dense, image.dense, audio.mask, settings.aggregation, settings.nonneg, *cls
        )

    def projection_parameters(self) -> list[nn.Parameter]:
        """What learns in the first phase: all but the encoders."""
        encoders = {
            id(parameter) for encoder in (self.image_encoder, self.audio_encoder) for parameter in encoder.parameters()
        }
        return [parameter for parameter in self.parameters() if id(parameter) not in encoders]
