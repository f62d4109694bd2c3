"""timm vision transformers as image encoders: DINO, DINOv2, DINOv3, CLIP, by timm's names (vit_small_patch8_224.dino).

One cell for each patch. Limits: those of timm_vit.py, and square patches; sides must be multiples of the patch.
"""

from jaxtyping import Float
from torch import Tensor

from model.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD, EncoderBuilder, ImageEncoder
from model.encoders.lora import add_lora
from model.encoders.pretrained import PRETRAINED
from model.encoders.timm_vit import create_vit


class TimmImageEncoder(ImageEncoder):
    """A timm vision transformer without its classifier.

    Args:
        name, weights, norm_eps, gradient_checkpointing: see timm_vit.create_vit. The published models have a norm_eps
            of 1e-4.
        image_size_px: side of the images; position embeddings are resampled to it.
        lora_rank: rank of adapters on frozen weights; 0: all weights are trained.
        lora_alpha, lora_dropout: see add_lora.

    Raises:
        ValueError: as create_vit, or a side that is not a multiple of the patch.

    Source: reference 1.1.
    """

    has_cls = True

    def __init__(
        self,
        name: str,
        image_size_px: int,
        weights: str = PRETRAINED,
        lora_rank: int = 0,
        lora_alpha: float = 32.0,
        lora_dropout: float = 0.1,
        norm_eps: float | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        size_px = (image_size_px, image_size_px)
        self.model = create_vit(name, size_px, 3, weights, "model.image_encoder=", norm_eps, gradient_checkpointing)
        self.stride, width_px = self.model.patch_embed.patch_size
        if self.stride != width_px:
            raise ValueError(
                f"model.image_encoder={name} has patches of {self.stride} x {width_px} px; "
                "only square patches are supported"
            )
        if image_size_px % self.stride:
            raise ValueError(
                f"stream.image_size_px={image_size_px} must be a multiple of {self.stride}, the patch size of {name}"
            )
        self.channels, self.blocks = self.model.num_features, tuple(self.model.blocks)
        # Weights that were trained with a normalization of their own keep it.
        self.mean = self.model.pretrained_cfg.get("mean") or IMAGENET_MEAN
        self.std = self.model.pretrained_cfg.get("std") or IMAGENET_STD
        if lora_rank:
            add_lora(self.model, lora_rank, lora_alpha, lora_dropout)

    def encode_normalized(
        self, frames: Float[Tensor, "V 3 H_px W_px"]
    ) -> tuple[Float[Tensor, "V C H W"], Float[Tensor, "V C"]]:
        """Features and class tokens after the final layer norm."""
        rows, columns = (side // self.stride for side in frames.shape[-2:])
        tokens = self.model.forward_features(frames)
        features = tokens[:, self.model.num_prefix_tokens :].transpose(1, 2).unflatten(2, (rows, columns))
        return features, tokens[:, 0]


TIMM = EncoderBuilder(
    lambda name, config, inputs: TimmImageEncoder(
        name,
        inputs.image_size_px,
        config.image_weights,
        config.lora_rank,
        config.lora_alpha,
        config.lora_dropout,
        config.norm_eps or None,
        config.gradient_checkpointing,
    ),
    frozenset({"image_weights", "lora_rank", "norm_eps", "gradient_checkpointing"}),
)
