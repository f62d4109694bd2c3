"""Random augmentations of an image: a loader worker crops and resizes it, and draws the colors that the device applies.

The draws are those of torchvision's transforms, seeded from the generator passed in; torch's default generator keeps
its state.

Source: reference 1.4.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from configs.schema import AugmentConfig
from pipelines.stream.augment import resize_center_crop
from pipelines.stream.device_color import ColorDraw


class DrawnImage(NamedTuple):
    """An image with what was drawn for it.

    Attributes:
        image: uint8 [3, any, any].
        box: top, left, height and width of the random crop in pixels; None: center crop.
        color: what the device applies to the crop.
    """

    image: torch.Tensor
    box: tuple[int, int, int, int] | None = None
    color: ColorDraw = ColorDraw()

    def crop(self, size_px: int) -> torch.Tensor:
        """The crop, resized (bilinear, antialiased): uint8 [size_px, size_px, 3]."""
        if self.box is None:
            crop = resize_center_crop(self.image, size_px)
        else:
            crop = functional.resized_crop(self.image, *self.box, [size_px, size_px], antialias=True)
        return crop.permute(1, 2, 0)


class ImageDraws:
    """Draws random resized crop, flip, color jitter and grayscale of an image.

    A transform whose setting makes it the identity is omitted; crop_scale_min = 1 gives the evaluation crop.
    """

    def __init__(self, settings: AugmentConfig) -> None:
        jitter = settings.color_jitter
        # The worker only asks these for their parameters; the size is that of `DrawnImage.crop`.
        self._crop = v2.RandomResizedCrop(1, scale=(settings.crop_scale_min, 1.0), antialias=True)
        self._jitter = v2.ColorJitter(jitter, jitter, jitter, jitter)
        self._settings = settings

    def __call__(self, image: torch.Tensor, rng: np.random.Generator) -> DrawnImage:
        """Draw for one image, uint8 [3, any, any]."""
        settings, box, color = self._settings, None, ColorDraw()
        with _seeded(rng):
            if settings.crop_scale_min < 1:
                drawn = self._crop.make_params([image])
                box = drawn["top"], drawn["left"], drawn["height"], drawn["width"]
            if settings.flip_probability:
                color = color._replace(flip=_happens(settings.flip_probability))
            if settings.color_jitter:
                drawn = self._jitter.make_params([image])
                factors = {name: drawn[f"{name}_factor"] for name in ("brightness", "contrast", "saturation", "hue")}
                color = color._replace(**factors, order=tuple(drawn["fn_idx"].tolist()))
            if settings.grayscale_probability:
                color = color._replace(gray=_happens(settings.grayscale_probability))
        return DrawnImage(image, box, color)


def _happens(probability: float) -> bool:
    return bool(torch.rand(1) < probability)


@contextlib.contextmanager
def _seeded(rng: np.random.Generator) -> Iterator[None]:
    """Seed torch's default generator, from which torchvision draws, and restore its state at the end."""
    # torch.manual_seed also queues a call with its stack trace for every GPU that is not initialized:
    # 0.4 of 2.5 ms an item, and a list that grows.
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(int(rng.integers(2**63)))
    try:
        yield
    finally:
        generator.set_state(state)
