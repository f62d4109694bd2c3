"""Brings the maps of frames to pixels, on the device of the model."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from eval.inference.stream_maps import encode_frames
from model.denseav import DenseAV
from model.upsamplers import Upsampler
from model.upsamplers.interpolation import InterpolationWeights
from model.upsamplers.load import load_upsampler
from model.upsamplers.maps import upsample_maps


@dataclass(frozen=True)
class MapUpsampler:
    """An upsampler for the maps of a model.

    Attributes:
        model: encodes the frames for upsamplers that read features.
        upsampler: on the device of the model.
    """

    model: DenseAV
    upsampler: Upsampler

    @classmethod
    def load(cls, model: DenseAV, upsampler: str | Upsampler) -> "MapUpsampler":
        """Load an upsampler by its name (model.upsamplers.load), or take one as it is.

        Raises:
            UsageError: no such upsampler.
        """
        if isinstance(upsampler, str):
            upsampler = load_upsampler(upsampler, device=_device(model))
        return cls(model, upsampler)

    @torch.no_grad()
    def __call__(
        self, maps: Float[Tensor, "N M H W"], frames: UInt8[Tensor, "N 3 H_img W_img"], size: tuple[int, int]
    ) -> Float[Tensor, "N M H_px W_px"]:
        """Upsample maps to a size in pixels (height, width); on the CPU.

        Args:
            maps: M of each frame, on the grid of the model.
            frames: RGB, of any size; upsamplers that read features have them encoded again.
        """
        device, features = _device(self.model), None
        if self.upsampler.reads_features:
            pictures = [frame.permute(1, 2, 0).cpu().numpy() for frame in frames]
            encoded = encode_frames(self.model, pictures).dense.flatten(1, 2)
            # Frames that are kept smaller can have another grid than those that the maps come from.
            features = InterpolationWeights((maps.shape[-2], maps.shape[-1])).apply(encoded)
        guide = frames.to(device) if self.upsampler.reads_image else None
        return upsample_maps(self.upsampler, maps.to(device), features, guide, size).cpu()


def _device(model: DenseAV) -> torch.device:
    return next(model.parameters()).device
