"""Image features for the features tab: computed by an image encoder, drawn as colors by PCA."""

import sys

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from configs.errors import UsageError
from eval.inference.frozen_encoder import encoder_by_name
from eval.inference.stream_maps import resize_frames, whole_patches
from eval.render.pca import fit_image_pca
from model.encoders.pretrained import PRETRAINED, RANDOM
from model.upsamplers.load import load_upsampler
from model.upsamplers.maps import upsample_features

_SHORT_SIDE_CELLS = 28
_UPSAMPLED = 8
_LONG_SIDE_PX = 768  # of the drawing


@torch.inference_mode()
def encoder_features(name: str, is_random: bool, picture: UInt8[np.ndarray, "H_px W_px 3"]) -> Float[Tensor, "C H W"]:
    """Features of a picture by an image encoder, _SHORT_SIDE_CELLS cells on the short side unless it is very long.

    Args:
        name: in model.encoders.registry.
        is_random: random weights, the same in every call, instead of the pre-trained ones.
        picture: RGB.

    Raises:
        UsageError: the pre-trained weights are not on this machine and cannot be downloaded.
    """
    try:
        encoder = encoder_by_name(name, RANDOM if is_random else PRETRAINED)
    except ValueError as error:
        print(f"warning: {error}", file=sys.stderr)
        raise UsageError(
            f"The weights of {name} are not on this server and cannot be downloaded. "
            "Choose random weights or another encoder."
        ) from None
    stride = encoder.encoder.stride
    size = whole_patches(stride, _SHORT_SIDE_CELLS * stride, *picture.shape[:2])
    return encoder.encode(encoder.normalize(resize_frames([picture], size)))[0]


@torch.inference_mode()
def upsampled_features(
    features: Float[Tensor, "C H W"], upsampler: str, picture: UInt8[np.ndarray, "H_px W_px 3"]
) -> Float[Tensor, "C H_up W_up"]:
    """Features of a picture upsampled to _UPSAMPLED times their grid, on the CPU.

    Args:
        upsampler: see model.upsamplers.load.

    Raises:
        UsageError: no such upsampler.
    """
    size = (_UPSAMPLED * features.shape[1], _UPSAMPLED * features.shape[2])
    frames = resize_frames([picture], size)
    return upsample_features(load_upsampler(upsampler), features[None].cpu(), frames, size)[0]


def draw_features(features: Float[Tensor, "C H W"], size_px: tuple[int, int]) -> Image.Image:
    """The first three principal components of features as red, green and blue.

    Args:
        features: any range.
        size_px: height and width of the picture, whose aspect ratio the drawing has.
    """
    colors = fit_image_pca(features).clip(0, 1) * 255
    cells = Image.fromarray(colors.astype(np.uint8).transpose(1, 2, 0))
    scale = _LONG_SIDE_PX / max(size_px)
    height_px, width_px = (max(1, round(side * scale)) for side in size_px)
    return cells.resize((width_px, height_px), Image.Resampling.BICUBIC)
