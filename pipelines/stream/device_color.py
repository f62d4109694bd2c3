"""Color jitter, grayscale and flip of a batch of uint8 images on any device, as torchvision applies them to each.

Every image has its own factors and its own order. The images that need an operation are selected by indices that the
CPU computes, so a GPU is not waited for. The result does not depend on which images are in a batch: pixels are computed
one by one, and means from exact sums of integers. Equal to torchvision.transforms.v2.functional within rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipelines.stream.device import rows_per_pass, to_device

_ORDER = slice(4, 8)
_FLIP, _GRAY = 8, 9


class ColorDraw(NamedTuple):
    """What was drawn for one image; the defaults change nothing.

    Attributes:
        brightness, contrast, saturation: factors, 1 = unchanged.
        hue: shift as a fraction of the color circle, -0.5 to 0.5.
        order: in which brightness (0), contrast (1), saturation (2) and hue (3) are applied.
        flip: flip it horizontally.
        gray: remove its color in the end.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    order: tuple[int, ...] = (0, 1, 2, 3)
    flip: bool = False
    gray: bool = False

    def row(self) -> tuple[float, ...]:
        """Its ten numbers, a row of `apply_colors`' argument."""
        return (self.brightness, self.contrast, self.saturation, self.hue, *self.order, self.flip, self.gray)


def apply_colors(images: Tensor, colors: Tensor) -> Tensor:
    """Apply to each image what was drawn for it.

    Args:
        images: uint8 [N, H_px, W_px, 3] on any device.
        colors: float32 [N, 10] on the CPU, rows of `ColorDraw.row`.

    Returns:
        uint8 [N, 3, H_px, W_px].
    """
    result = images.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
    rows = rows_per_pass(images.device)
    for part, drawn in zip(result.split(rows), colors.split(rows), strict=True):
        _apply(part, drawn)
    return result


def _apply(images: Tensor, colors: Tensor) -> None:
    """Change images [N, 3, H_px, W_px] in place."""
    steps = [step for step in _steps(colors) if len(step[1])]
    if not steps:
        return
    factors = to_device(colors[:, :4].contiguous(), images.device).T
    indices = to_device(torch.cat([rows for _, rows in steps]), images.device)
    for (name, rows), index in zip(steps, indices.split([len(rows) for _, rows in steps]), strict=True):
        change, column = _CHANGES[name]
        some = images if len(rows) == len(images) else images.index_select(0, index)
        factor = factors[column].index_select(0, index)[:, None, None]
        _write_rows(images, index, change(some, factor))


def _write_rows(images: Tensor, index: Tensor, rows: Tensor) -> None:
    """images[index] = rows, eight bytes at a time where the size of an image allows it: 6 times as fast on a CPU."""
    word = torch.int64 if images[0].numel() % 8 == 0 else torch.uint8
    images.flatten(1).view(word).index_copy_(0, index, rows.flatten(1).view(word))


def _steps(colors: Tensor) -> list[tuple[str, Tensor]]:
    """Operations, and the rows that they are applied to, one after another."""
    order, steps = colors[:, _ORDER], list[tuple[str, Tensor]]()
    for turn in range(4):
        for kind, name in enumerate(("brightness", "contrast", "saturation", "hue")):
            is_changed = colors[:, kind] != (0 if name == "hue" else 1)
            steps.append((name, ((order[:, turn] == kind) & is_changed).nonzero()[:, 0]))
    steps.append(("gray", colors[:, _GRAY].nonzero()[:, 0]))
    steps.append(("flip", colors[:, _FLIP].nonzero()[:, 0]))
    return steps


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply pixels, uint8 [N, 3, H_px, W_px], by the image's factor [N, 1, 1]."""
    return images.to(torch.float32).mul_(factor[:, None]).clamp_(max=255).to(torch.uint8)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend images, uint8 [N, 3, H_px, W_px], with the mean of their gray values, by factors [N, 1, 1]."""
    gray = _gray(images)
    total = gray.sum(dim=2).to(torch.int64).sum(dim=1)  # of whole numbers: exact in any order
    mean = (total.to(torch.float32) / gray[0].numel())[:, None, None]
    return _blend(images, mean, factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend images, uint8 [N, 3, H_px, W_px], with their gray values, by factors [N, 1, 1]."""
    return _blend(images, _gray(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue of images, uint8 [N, 3, H_px, W_px], by shifts [N, 1, 1], fractions of the circle, -0.5 to 0.5.

    In the HSV model a rotation keeps the largest value of a pixel and its chroma, the largest minus the smallest, and
    each channel is a piecewise linear function of hue times chroma. So the pixel is computed from 16-bit integers,
    without division: a tenth of the time of a round trip through HSV, and rounded where torchvision truncates.
    """
    red, green, blue = images.to(torch.int16).unbind(dim=1)
    largest = torch.maximum(torch.maximum(red, green), blue)
    chroma = largest - torch.minimum(torch.minimum(red, green), blue)
    # Arithmetic instead of torch.where, which takes ten times as long on a CPU.
    is_red, is_green = 1 - (largest - red).clamp_(max=1), 1 - (largest - green).clamp_(max=1)
    # Hue times chroma, in sixths of the circle from red: -1 to 5 times the chroma, and -4 to 8 after the shift.
    hue = red - green + 4 * chroma
    hue += is_green * (blue - red + 2 * chroma - hue)
    hue += is_red * (green - blue - hue)
    hue += (chroma * (6 * shift)).round_().to(torch.int16)
    circle, channels = 6 * chroma, []
    for center in (0, 2, 4):
        distance = (hue - center * chroma).abs_()
        distance = torch.minimum(distance, (circle - distance).abs_())
        channels.append(largest - torch.minimum(distance.sub_(chroma).clamp_(min=0), chroma))
    return torch.stack(channels, dim=1).to(torch.uint8)


def to_gray(images: Tensor, _factor: Tensor) -> Tensor:
    """Gray values of images, uint8 [N, 3, H_px, W_px], in all three channels."""
    return _gray(images).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)


def _flip(images: Tensor, _factor: Tensor) -> Tensor:
    return images.flip(-1)


def _gray(images: Tensor) -> Tensor:
    """float32 [N, H_px, W_px], whole numbers."""
    red, green, blue = images.unbind(dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor * images + (1 - factor) * other, rounded down; other [N, H_px, W_px] or [N, 1, 1]."""
    mixed = images.to(torch.float32).mul_(factor[:, None]).add_((other * (1 - factor))[:, None])
    return mixed.clamp_(0, 255).to(torch.uint8)


_Change = Callable[[Tensor, Tensor], Tensor]
_CHANGES: dict[str, tuple[_Change, int]] = {  # the operation, and the column of its factor
    "brightness": (adjust_brightness, 0),
    "contrast": (adjust_contrast, 1),
    "saturation": (adjust_saturation, 2),
    "hue": (adjust_hue, 3),
    "gray": (to_gray, 0),
    "flip": (_flip, 0),
}
