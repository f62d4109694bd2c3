"""Fixed transforms of evaluation examples. Random ones of training are in augment_image.py and augment_audio.py."""

import numpy as np
import torch
from torchvision.transforms.v2 import functional


def pad_or_crop(waveform: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a waveform to `samples` or pad it with zeros at the end: (waveform [S], mask [S], False in the padding)."""
    valid = min(len(waveform), samples)
    padded, mask = np.zeros(samples, dtype=np.float32), np.zeros(samples, dtype=bool)
    padded[:valid], mask[:valid] = waveform[:valid], True
    return padded, mask


def resize_center_crop(image: torch.Tensor, size_px: int) -> torch.Tensor:
    """Resize the short side to `size_px` (bilinear, antialiased), then center crop: uint8 [3, size_px, size_px].

    Source: reference 1.4.
    """
    height, width = image.shape[-2:]
    if min(height, width) != size_px:
        image = functional.resize(image, [size_px], antialias=True)
    return functional.center_crop(image, [size_px, size_px]) if max(image.shape[-2:]) != size_px else image
