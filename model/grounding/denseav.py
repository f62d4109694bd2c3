"""DenseAV: an image branch and an audio branch compared densely, patch by audio step, in K heads. Parts are built outside and passed in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from model.grounding.masks import step_mask


class ImageFeatures(NamedTuple):
    """Projected image features, split into heads. `cls` is None without class tokens."""

    dense: Float[Tensor, "V K C H W"]
    cls: Float[Tensor, "V K C"] | None


class AudioFeatures(NamedTuple):
    """Projected audio features, split into heads; `mask` is True at valid steps. `cls` is None without class tokens."""

    dense: Float[Tensor, "A K C T"]
    mask: Bool[Tensor, "A T"]
    cls: Float[Tensor, "A K C"] | None


class InputSpec(NamedTuple):
    """What the model was built to see and hear: side of the square image, length and rate of the waveform."""

    image_size_px: int
    clip_duration_s: float
    sample_rate_hz: int


class ScoreSettings(NamedTuple):
    """How a similarity volume becomes one score (model.grounding.similarity)."""

    aggregation: str = "misa"
    head_aggregation: str = "max_elementwise"
    nonneg: bool = False
    use_cls: bool = False


class DenseAV(nn.Module):
    """The model of the paper around any two encoders.

    Args:
        image_encoder, audio_encoder: see model.encoders.tiny for the interface.
        image_projection, audio_projection: see model.grounding.projection.
        heads: K; divides the channels of both projections.
        image_pool: side of the average pooling of the image grid, in training only.
        inputs: sizes of the inputs, kept with the weights.
        scores: how scores are computed, kept with the weights.

    Source: reference 1.1.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        audio_encoder: nn.Module,
        image_projection: nn.Module,
        audio_projection: nn.Module,
        heads: int,
        image_pool: int,
        inputs: InputSpec,
        scores: ScoreSettings,
    ) -> None:
        super().__init__()
        self.image_encoder, self.audio_encoder = image_encoder, audio_encoder
        self.image_projection, self.audio_projection = image_projection, audio_projection
        self.heads, self.image_pool, self.inputs, self.score_settings = heads, image_pool, inputs, scores
        self.log_scale = nn.Parameter(torch.zeros(()))

    def encode_image(self, frames: Float[Tensor, "V 3 H_px W_px"]) -> ImageFeatures:
        """Features of ImageNet-normalised frames, one cell for each patch (for `image_pool` x `image_pool` patches in training)."""
        dense, cls = self.image_projection(*self.image_encoder(frames))
        if self.training and self.image_pool > 1:
            dense = functional.avg_pool2d(dense, self.image_pool)
        return ImageFeatures(dense.unflatten(1, (self.heads, -1)), None if cls is None else cls.unflatten(1, (self.heads, -1)))

    def encode_audio(self, waveform: Float[Tensor, "A S"], audio_mask: Bool[Tensor, "A S"], generator: torch.Generator | None = None) -> AudioFeatures:
        """Features of waveforms in -1..1; a step is valid where `audio_mask` (True = sound) covers it.

        Args:
            generator: draws the one step that stays valid in a row without any sound; None: torch's own in training, and in evaluation a
                fixed one, so that the same sound always gives the same features.
        """
        if generator is None and not self.training:
            generator = torch.Generator().manual_seed(0)
        dense, cls = self.audio_projection(*self.audio_encoder(waveform))
        mask = step_mask(audio_mask, dense.shape[-1], generator)
        return AudioFeatures(dense.unflatten(1, (self.heads, -1)), mask, None if cls is None else cls.unflatten(1, (self.heads, -1)))

    def forward(
        self,
        frames: Float[Tensor, "B 3 H_px W_px"],
        waveform: Float[Tensor, "B S"],
        audio_mask: Bool[Tensor, "B S"],
        generator: torch.Generator | None = None,
    ) -> tuple[ImageFeatures, AudioFeatures, Float[Tensor, ""]]:
        """Both branches and the log of the logit scale: all the objective needs."""
        return self.encode_image(frames), self.encode_audio(waveform, audio_mask, generator), self.log_scale

    def projection_parameters(self) -> list[nn.Parameter]:
        """What learns in the first phase: both projections and the logit scale."""
        return [*self.image_projection.parameters(), *self.audio_projection.parameters(), self.log_scale]
