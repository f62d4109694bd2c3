"""Any timm vision transformer as an image encoder: DINO, DINOv2, DINOv3, CLIP, by timm's own names (vit_small_patch8_224.dino).

Interface as in tiny.py: ImageNet-normalised frames [V 3 H_px W_px] to (dense features [V C H W], class tokens [V C]), one cell for each patch.
Limits: those of timm_vit.py, and square patches; sides that are whole patches.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.encoders.lora import LoraSettings, add_lora
from model.encoders.pretrained import PRETRAINED
from model.encoders.timm_vit import create_vit

# Frames come normalised by these; an encoder that was trained with others is given its own.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TimmImageEncoder(nn.Module):
    """A timm vision transformer without its classifier.

    Args:
        name, weights, norm_eps, gradient_checkpointing: see vit.create_vit. The published models have a norm_eps of 1e-4.
        image_size_px: side of the images; position embeddings are resampled to it.
        lora: adapters beside frozen weights; None: all weights learn.

    Raises:
        ValueError: as create_vit, or a side that is not whole patches.

    Source: reference 1.1.
    """

    has_cls = True

    def __init__(
        self,
        name: str,
        image_size_px: int,
        weights: str = PRETRAINED,
        lora: LoraSettings | None = None,
        norm_eps: float | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.model = create_vit(
            name, (image_size_px, image_size_px), 3, weights, "model.image_encoder=", norm_eps, gradient_checkpointing
        )
        self.patch_size_px = _patch_size_px(self.model, name)
        if image_size_px % self.patch_size_px:
            raise ValueError(
                f"stream.image_size_px={image_size_px} must be a multiple of {self.patch_size_px}, the patches of {name}"
            )
        self.channels: int = self.model.num_features
        if lora:
            add_lora(self.model, lora)
        self.register_buffer("_factor", torch.empty(3, 1, 1), persistent=False)
        self.register_buffer("_shift", torch.empty(3, 1, 1), persistent=False)
        self.reset_normalisation()

    def reset_normalisation(self) -> None:
        """Work out what brings ImageNet-normalised frames to the encoder's own mean and deviation; again after building on the meta device."""
        device = "cpu" if next(self.parameters()).device.type != "meta" else "meta"
        own = self.model.pretrained_cfg
        mean, std = (
            torch.tensor(own.get(key) or default, device=device)
            for key, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
        )
        imagenet_mean, imagenet_std = (torch.tensor(values, device=device) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self._factor, self._shift = (imagenet_std / std).view(3, 1, 1), ((imagenet_mean - mean) / std).view(3, 1, 1)

    def forward(self, frames: Float[Tensor, "V 3 H_px W_px"]) -> tuple[Float[Tensor, "V C H W"], Float[Tensor, "V C"]]:
        """Encode ImageNet-normalised frames; features are taken after the final layer norm."""
        rows, columns = (side // self.patch_size_px for side in frames.shape[-2:])
        tokens = self.model.forward_features(frames * self._factor + self._shift)
        dense = tokens[:, self.model.num_prefix_tokens :].transpose(1, 2).unflatten(2, (rows, columns))
        return dense, tokens[:, 0]


def _patch_size_px(model: nn.Module, name: str) -> int:
    height, width = model.patch_embed.patch_size
    if height != width:
        raise ValueError(f"model.image_encoder={name} has patches of {height} x {width} px; square ones are needed")
    return height
