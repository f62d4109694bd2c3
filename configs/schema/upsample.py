"""Settings of `python -m eval.upsample`."""

from dataclasses import dataclass

from configs.field import MAX_SEED, field


@dataclass
class UpsampleConfig:
    image: str = field("", "image file")
    out: str = field("", "folder to write: features.png, and the fitted upsampler of method=implicit")
    encoder: str = field("", "image encoder, as model.image_encoder: vit_small_patch16_224.dino, ...; or checkpoint=")
    weights: str = field(
        "pretrained", "weights of encoder=: pretrained (timm's, cached or downloaded), random, or a file"
    )
    checkpoint: str = field(
        "", "model whose projected image features are upsampled, as for denseav.load: toy, a run folder, ..."
    )
    method: str = field(
        "implicit",
        "implicit: fit a network to this image; or bilinear, bicubic, anyup, or the folder of a trained upsampler",
    )
    side_px: int = field(0, "short side of the encoded image; 0: 224, or that of checkpoint=", "px", min=0, max=4096)
    views: int = field(3000, "views of the image that the fit compares with, each encoded once", "views", min=2)
    steps: int = field(1200, "steps of the fit at most; it ends when its error has stopped falling", "steps", min=1)
    channels: int = field(128, "number of principal components to fit, at most the channels of the encoder", min=3)
    seed: int = field(0, "seed of the views and of the fit", min=0, max=MAX_SEED)
