"""The image that guides an upsampler: normalized as the published guides expect it."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalize_image(image: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """RGB with ImageNet's mean and standard deviation."""
    return functional.normalize(functional.to_dtype(image, torch.float32, scale=True), IMAGENET_MEAN, IMAGENET_STD)
