"""The image that guides an upsampler: normalized as the published guides expect it."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalize_image(image: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """RGB with ImageNet's mean and standard deviation."""
    return functional.normalize(functional.to_dtype(image, torch.float32, scale=True), IMAGENET_MEAN, IMAGENET_STD)


def channels_last(image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """The same image with the channels of a pixel side by side in memory, as the windowed operator reads them.

    Layers keep this order, so that nothing is copied between the guide and the operator.
    """
    return image.contiguous(memory_format=torch.channels_last)
