"""The interface of all encoders, and how image encoders normalize their frames.

An image encoder maps frames, uint8 [V 3 H_px W_px], to (features [V C H W], class tokens [V C] or None); an audio
encoder maps waveforms [A S] in -1 to 1 to (features [A C T], class tokens [A C] or None).
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from configs.schema import ModelConfig
from model.inputs import InputSpec

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Encoder(nn.Module):
    """Base class of image and audio encoders.

    Attributes:
        channels: C of the features.
        has_cls: whether there are class tokens.
        stride: pixels (image) or samples (audio) from one cell or step to the next.
        blocks: layers that FSDP shards one by one; empty: the encoder as a whole.
        reads_log_mel: whether it takes log-mel spectrograms [A N 128] in place of waveforms.
    """

    has_cls: ClassVar[bool] = False
    reads_log_mel: ClassVar[bool] = False
    channels: int
    stride: int
    blocks: Sequence[nn.Module] = ()


class ImageEncoder(Encoder):
    """An encoder of frames. `forward` normalizes them, so nothing else in the system does.

    Attributes:
        mean, std: of RGB values in 0 to 1; ImageNet's by default.
    """

    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def forward(
        self, frames: UInt8[Tensor, "V 3 H_px W_px"]
    ) -> tuple[Float[Tensor, "V C H W"], Float[Tensor, "V C"] | None]:
        """Encode RGB frames, 0 to 255.

        Raises:
            ValueError: frames of another dtype, which may already be normalized.
        """
        if frames.dtype != torch.uint8:
            raise ValueError(f"frames are {frames.dtype}; allowed is torch.uint8, RGB in 0 to 255")
        normalized = normalize(frames, self.mean, self.std)
        return self.encode_normalized(normalized.to(next(self.parameters(), normalized).dtype))

    @abstractmethod
    def encode_normalized(
        self, frames: Float[Tensor, "V 3 H_px W_px"]
    ) -> tuple[Float[Tensor, "V C H W"], Float[Tensor, "V C"] | None]:
        """Encode normalized frames."""


def normalize(
    frames: UInt8[Tensor, "V 3 H_px W_px"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "V 3 H_px W_px"]:
    """(frames / 255 - mean) / std for each color, in torch's default dtype."""
    shift, scale = (255 * torch.tensor(values, device=frames.device).view(3, 1, 1) for values in (mean, std))
    return frames.to(shift.dtype).sub_(shift).div_(scale)


class EncoderBuilder(NamedTuple):
    """What model.encoders.registry knows of an encoder.

    Attributes:
        build: (name without its prefix, settings, inputs) -> encoder; raises ValueError where they do not go together.
        settings: fields of configs.schema.ModelConfig that it reads; others have no effect on it.
    """

    build: Callable[[str, ModelConfig, InputSpec], Encoder]
    settings: frozenset[str]
