"""DenseAV: an image branch and an audio branch compared densely, every patch with every audio step, in K heads.

The parts are built outside (model.build) and passed in. Source: reference 1.1.
"""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.audio_mask import downsample_mask
from model.encoders.encoder import Encoder
from model.features import AudioFeatures, ImageFeatures, concat_features
from model.heatmap import pool_volume
from model.inputs import InputSpec as InputSpec
from model.losses.contrastive import LogitScale
from model.similarity import dense, fused
from model.similarity.config import SimilarityConfig as SimilarityConfig
from model.upsamplers import Upsampler
from model.upsamplers.interpolation import Bilinear
from model.upsamplers.maps import upsample_maps


class DenseAV(nn.Module):
    """The model of the paper around any two encoders.

    Args:
        image_encoder, audio_encoder: see model.encoders.encoder.
        image_projection, audio_projection: see model.projection.
        num_heads: K; divides the channels of both projections.
        image_pool_size: side of the average pooling of the image grid, in training only.
        inputs: sizes of the inputs, stored with the weights.
        similarity_config: how scores are computed, stored with the weights.
        image_pooling, audio_pooling: model.similarity.simpool, whose vectors replace the class tokens; None: the
            encoders' own.
        bias: initial value of the learned bias of the logits; None: no bias.

    Source: reference 1.1.
    """

    def __init__(
        self,
        image_encoder: Encoder,
        audio_encoder: Encoder,
        image_projection: nn.Module,
        audio_projection: nn.Module,
        num_heads: int,
        image_pool_size: int,
        inputs: InputSpec,
        similarity_config: SimilarityConfig,
        image_pooling: nn.Module | None = None,
        audio_pooling: nn.Module | None = None,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        self.image_encoder, self.audio_encoder = image_encoder, audio_encoder
        self.image_projection, self.audio_projection = image_projection, audio_projection
        self.num_heads, self.image_pool_size = num_heads, image_pool_size
        self.inputs, self.similarity_config = inputs, similarity_config
        self.image_pooling, self.audio_pooling = image_pooling, audio_pooling
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def encode_image(self, frames: UInt8[Tensor, "V 3 H_px W_px"]) -> ImageFeatures:
        """Encode RGB frames, 0 to 255; one cell for each patch (in training, for image_pool_size^2 patches)."""
        return self.project_image(*self.image_encoder(frames))

    def project_image(
        self, features: Float[Tensor, "V C_enc H_enc W_enc"], cls: Float[Tensor, "V C_enc"] | None
    ) -> ImageFeatures:
        """Project features of the image encoder and split them into heads."""
        features, cls = self.image_projection(features, cls)
        if self.training and self.image_pool_size > 1:
            features = nn.functional.avg_pool2d(features, self.image_pool_size)
        if self.image_pooling is not None:
            cls = self.image_pooling(features.flatten(2).transpose(1, 2))
        return ImageFeatures(self._split(features), None if cls is None else self._split(cls))

    def encode_audio(
        self,
        waveform: Float[Tensor, "A S"] | Float[Tensor, "A N F"],
        audio_mask: Bool[Tensor, "A S"] | Bool[Tensor, "A N"],
        fallback_step: Float[Tensor, "A"] | None = None,
    ) -> AudioFeatures:
        """Encode waveforms in -1 to 1; an audio step is valid where `audio_mask` (True = valid sample) covers it.

        Args:
            waveform: or log-mel spectrograms, for encoders that take them (`reads_log_mel`), with a mask of frames.
            fallback_step: 0 to 1, position of the one step that stays valid in a row without valid samples; None: the
                middle.
        """
        features, cls = self.audio_projection(*self.audio_encoder(waveform))
        mask = downsample_mask(audio_mask, features.shape[-1], fallback_step)
        if self.audio_pooling is not None:
            cls = self.audio_pooling(features.transpose(1, 2), mask)
        return AudioFeatures(self._split(features), mask, None if cls is None else self._split(cls))

    def forward(
        self,
        frames: UInt8[Tensor, "B 3 H_px W_px"],
        waveform: Float[Tensor, "B S"] | Float[Tensor, "B N F"],
        audio_mask: Bool[Tensor, "B S"] | Bool[Tensor, "B N"],
        fallback_step: Float[Tensor, "B"] | None = None,
        grad_cache_chunk_size: int = 0,
    ) -> tuple[ImageFeatures, AudioFeatures, LogitScale]:
        """Encode both sides of a batch: everything the loss needs.

        Args:
            fallback_step: see encode_audio.
            grad_cache_chunk_size: pairs encoded at once; 0: all, nothing is computed twice. Of the other chunks only
                the features are kept, and the backward pass encodes them again, chunk by chunk, with the same random
                numbers (a gradient cache: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited
                Setup, 2021), so that memory does not grow with the batch.
        """
        logit_scale = LogitScale(self.log_scale, self.bias)
        if not grad_cache_chunk_size or grad_cache_chunk_size >= len(frames):
            return *self._encode(frames, waveform, audio_mask, fallback_step), logit_scale
        inputs = [part.split(grad_cache_chunk_size) for part in (frames, waveform, audio_mask)]
        fallback = [None] * len(inputs[0]) if fallback_step is None else fallback_step.split(grad_cache_chunk_size)
        encoded = [
            checkpoint(self._encode, *chunk, use_reentrant=False) for chunk in zip(*inputs, fallback, strict=True)
        ]
        image, audio = zip(*encoded, strict=True)
        return concat_features(image), concat_features(audio), logit_scale

    def _encode(
        self, frames: Tensor, waveform: Tensor, audio_mask: Tensor, fallback_step: Tensor | None
    ) -> tuple[ImageFeatures, AudioFeatures]:
        return self.encode_image(frames), self.encode_audio(waveform, audio_mask, fallback_step)

    def _split(self, features: Float[Tensor, "B D *cells"]) -> Float[Tensor, "B K C *cells"]:
        return features.unflatten(1, (self.num_heads, -1))

    def paired_similarity(self, image: ImageFeatures, audio: AudioFeatures) -> Float[Tensor, "B K H W T"]:
        """Similarities of matching pairs in float32 or better, as this model scores them; 0 at masked-out steps."""
        return dense.paired_similarity(audio, image, self.similarity_config.nonneg, self.similarity_config.use_cls)

    def similarity_per_head(self, image: ImageFeatures, audio: AudioFeatures) -> Float[Tensor, "A V K"]:
        """Score of every audio against every image, each head alone, as this model scores them."""
        return fused.similarity_per_head(audio, image, self.similarity_config)

    def heatmap(
        self,
        image: ImageFeatures,
        audio: AudioFeatures,
        size: tuple[int, int] | None = None,
        per_head: bool = False,
        step_weight: Bool[Tensor, "B T"] | Float[Tensor, "B T"] | None = None,
        upsampler: Upsampler | None = None,
        frames: UInt8[Tensor, "B 3 H_px W_px"] | None = None,
    ) -> Float[Tensor, "B H_out W_out"] | Float[Tensor, "B K H_out W_out"]:
        """Where in each image the audio of the same row comes from: maximum over heads, mean over audio steps.

        Args:
            image, audio: features of B matching pairs.
            size: height and width of the maps; None: those of the grid.
            per_head: one map for each head instead of their maximum.
            step_weight: weight of each audio step in the mean, 0 or more; None: the valid steps alike.
            upsampler: brings maps to `size`; None: bilinear.
            frames: the images, of any size, for upsamplers that are guided by them.

        Returns:
            Any range; 0 for a row whose weights are all 0.

        Source: reference 1.6.
        """
        volume = self.paired_similarity(image, audio)
        weight = (audio.mask if step_weight is None else step_weight).to(volume.device)
        maps = pool_volume(volume, weight, per_head)
        if size is None:
            return maps
        features, stacked = image.dense.flatten(1, 2), maps if per_head else maps[:, None]
        upsampled = upsample_maps(upsampler or Bilinear(), stacked, features, frames, size)
        return upsampled if per_head else upsampled[:, 0]

    def projection_parameters(self) -> list[nn.Parameter]:
        """The parameters that learn in the first phase: all but the encoders'."""
        encoders = {id(p) for encoder in (self.image_encoder, self.audio_encoder) for p in encoder.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in encoders]
