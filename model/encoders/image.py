"""Any timm vision transformer as an image encoder: DINO, DINOv2, DINOv3, CLIP, by timm's own names (vit_small_patch8_224.dino).

Interface as in tiny.py: ImageNet-normalised frames [V 3 H_px W_px] to (dense features [V C H W], class tokens [V C]), one cell for each patch.
Limits: transformers with a class token and square patches; sides that are whole patches.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from configs.command import UsageError
from model.encoders.lora import LoraSettings, add_lora

# Frames come normalised by these; an encoder that was trained with others is given its own.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RANDOM, PRETRAINED = "random", "pretrained"


class TimmImageEncoder(nn.Module):
    """A timm vision transformer without its classifier.

    Args:
        name: as timm.list_models gives it.
        image_size_px: side of the images; position embeddings are resampled to it.
        weights: `pretrained` (timm's own loader: its cache, or the network), `random`, or a file that `torch.load(weights_only=True)` or safetensors reads.
        lora: adapters beside frozen weights; None: all weights learn.
        norm_eps: of all layer norms; None: the model's own. The published models have 1e-4.
        gradient_checkpointing: blocks are computed again in the backward pass instead of kept.

    Raises:
        UsageError: no such model, no class token, a side that is not whole patches, or weights that are not there.

    Source: reference 1.1.
    """

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
        self.model = _create(name, image_size_px, weights)
        self.patch_size_px = _patch_size_px(self.model, name)
        if image_size_px % self.patch_size_px:
            raise UsageError(f"stream.image_size_px={image_size_px} must be a multiple of {self.patch_size_px}, the patches of {name}")
        self.channels: int = self.model.num_features
        if norm_eps is not None:
            for module in self.model.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eps = norm_eps
        if gradient_checkpointing:
            self.model.set_grad_checkpointing()
        if lora:
            add_lora(self.model, lora)
        self.register_buffer("_factor", torch.empty(3, 1, 1), persistent=False)
        self.register_buffer("_shift", torch.empty(3, 1, 1), persistent=False)
        self.reset_normalisation()

    def reset_normalisation(self) -> None:
        """Work out what brings ImageNet-normalised frames to the encoder's own mean and deviation; again after building on the meta device."""
        device = "cpu" if next(self.parameters()).device.type != "meta" else "meta"
        own = self.model.pretrained_cfg
        mean, std = (torch.tensor(own.get(key) or default, device=device) for key, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
        imagenet_mean, imagenet_std = (torch.tensor(values, device=device) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self._factor, self._shift = (imagenet_std / std).view(3, 1, 1), ((imagenet_mean - mean) / std).view(3, 1, 1)

    def forward(self, frames: Float[Tensor, "V 3 H_px W_px"]) -> tuple[Float[Tensor, "V C H W"], Float[Tensor, "V C"]]:
        """Encode ImageNet-normalised frames; features are taken after the final layer norm."""
        rows, columns = (side // self.patch_size_px for side in frames.shape[-2:])
        tokens = self.model.forward_features(frames * self._factor + self._shift)
        dense = tokens[:, self.model.num_prefix_tokens :].transpose(1, 2).unflatten(2, (rows, columns))
        return dense, tokens[:, 0]


def _create(name: str, image_size_px: int, weights: str) -> nn.Module:
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.partition('.')[0][:12]}*")[:3] or timm.list_models("vit_small*")[:3]
        raise UsageError(f"model.image_encoder={name}: timm has no such model; near it are {', '.join(near)}")
    try:
        model = timm.create_model(name, pretrained=weights == PRETRAINED, num_classes=0, img_size=image_size_px, dynamic_img_size=True)
    except TypeError:
        raise UsageError(f"model.image_encoder={name} is no vision transformer that takes images of any size") from None
    except Exception as error:  # the hub's and the network's errors have no common base
        raise UsageError(
            f"model.image_encoder={name}: its pre-trained weights are not in timm's cache and cannot be fetched ({_first_line(error)}); "
            f"give a file as model.image_weights, or model.image_weights={RANDOM}"
        ) from None
    if not getattr(model, "num_prefix_tokens", 0) or model.cls_token is None:
        raise UsageError(f"model.image_encoder={name} has no class token")
    if weights not in (PRETRAINED, RANDOM):
        load_weights(model, weights, f"model.image_weights={weights}", ignore=("head.", "fc_norm."))
    return model


def _patch_size_px(model: nn.Module, name: str) -> int:
    height, width = model.patch_embed.patch_size
    if height != width:
        raise UsageError(f"model.image_encoder={name} has patches of {height} x {width} px; square ones are needed")
    return height


def load_weights(model: nn.Module, file: str, origin: str, ignore: tuple[str, ...] = ()) -> None:
    """Load a state dict from a file, strictly, but for keys that begin with one of `ignore`.

    Raises:
        UsageError: no such file, none that can be read without unpickling code, or weights of another model.
    """
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"{origin}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors', pickle's and zip's errors have no common base
        raise UsageError(f"{origin} is no file of weights ({_first_line(error)})") from None
    state = state.get("state_dict", state.get("model", state)) if isinstance(state, dict) else {}
    state = {key: value for key, value in state.items() if not key.startswith(ignore)}
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError) as error:
        raise UsageError(f"{origin} has weights of another model ({' '.join(str(error).split())[:300]})") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
