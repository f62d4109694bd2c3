"""The image that guides an upsampler: normalized as the published guides expect it."""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalize_image(image: UInt8[Tensor, "B 3 H W"], grid: tuple[int, int]) -> Float[Tensor, "B 3 H W"]:
    """RGB with ImageNet's mean and standard deviation.

    Args:
        grid: rows and columns of the features of this image.

    Raises:
        ValueError: no size of square cells gives this grid for this image.
    """
    height, width = image.shape[2:]
    rows, columns = grid
    smallest = max(height / (rows + 1), width / (columns + 1))
    largest = min(side / (cells - 1) if cells > 1 else math.inf for side, cells in ((height, rows), (width, columns)))
    if smallest >= largest:
        raise ValueError(
            f"image of {height} x {width} px, features of {rows} x {columns} cells: another aspect; "
            "the guide needs the image as the encoder saw it, resized and cropped"
        )
    return functional.normalize(functional.to_dtype(image, torch.float32, scale=True), IMAGENET_MEAN, IMAGENET_STD)


def channels_last(image: Float[Tensor, "B C H W"], dtype: torch.dtype) -> Float[Tensor, "B C H W"]:
    """The same image in the dtype of the weights, with the channels of a pixel side by side in memory.

    Layers keep this order, which is that of the windowed operator, so that nothing is copied between them.
    """
    return image.to(dtype).contiguous(memory_format=torch.channels_last)


def check_size(size: tuple[int, int]) -> None:
    """Check the size of an output.

    Raises:
        ValueError: less than one pixel.
    """
    if min(size) < 1:
        raise ValueError(f"output of {size[0]} x {size[1]} px: allowed are 1 x 1 px and more")
