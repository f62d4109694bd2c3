"""An image encoder by itself, frozen: of a model, or any encoder by its name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from configs.schema import ModelConfig
from model.denseav import DenseAV
from model.encoders.encoder import ImageEncoder, normalize
from model.encoders.registry import build_image_encoder
from model.inputs import InputSpec

BUILT_PX = 448  # a multiple of all patch sizes in use


@dataclass(frozen=True)
class FrozenEncoder:
    """Maps normalized images to features, without gradients.

    Attributes:
        encoder: in evaluation mode.
        encode: normalized images [V 3 H_px W_px] to features [V C H W], float32.
        side_px: short side of the images it is meant for.
    """

    encoder: ImageEncoder
    encode: Callable[[Tensor], Tensor]
    side_px: int

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return next(self.encoder.parameters()).device

    def normalize(self, frames: UInt8[Tensor, "V 3 H_px W_px"]) -> Float[Tensor, "V 3 H_px W_px"]:
        """Frames, 0 to 255, as the encoder takes them, on its device."""
        return normalize(frames.to(self.device), self.encoder.mean, self.encoder.std)


def encoder_of_model(model: DenseAV) -> FrozenEncoder:
    """The image side of a model; features are projected, with the channels of all heads."""
    encoder = model.image_encoder
    assert isinstance(encoder, ImageEncoder)

    @torch.no_grad()
    def encode(image: Tensor) -> Tensor:
        return model.project_image(*encoder.encode_normalized(image)).dense.flatten(1, 2).float()

    return FrozenEncoder(encoder, encode, model.inputs.image_size_px)


def encoder_by_name(name: str, weights: str, seed: int = 0, side_px: int = 224) -> FrozenEncoder:
    """An encoder on the accelerator of this machine, or its CPU.

    Args:
        name, weights: as model.image_encoder and model.image_weights.
        seed: of random weights.

    Raises:
        ValueError: no such encoder, or weights that cannot be loaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = ModelConfig(image_encoder=name, image_weights=weights)
        encoder = build_image_encoder(config, InputSpec(BUILT_PX, 1.0, 16000))
    encoder.eval().requires_grad_(False).to(torch.accelerator.current_accelerator(check_available=True) or "cpu")

    @torch.no_grad()
    def encode(image: Tensor) -> Tensor:
        features: Tensor = encoder.encode_normalized(image)[0]
        return features.float()

    return FrozenEncoder(encoder, encode, side_px)
