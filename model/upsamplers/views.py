"""Views of an image: padded, zoomed, cropped and flipped; the same view warps the image and its upsampled features.

Source: reference 4.1.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


class View(NamedTuple):
    """A warp.

    Attributes:
        row, column: top left corner of the crop in the padded and zoomed image.
        zoom: 1 = none.
        flip: whether it is mirrored, after the crop.
    """

    row: int
    column: int
    zoom: float = 1.0
    flip: bool = False


def warp(image: Float[Tensor, "B C H W"], view: View, max_pad: int) -> Float[Tensor, "B C H W"]:
    """A view of an image or of features of its size.

    Args:
        max_pad: by how many pixels the borders are extended by reflection first.
    """
    height, width = image.shape[2:]
    if view.zoom > 1:
        image = _zoomed_crop(image, view, max_pad)
    else:
        padded = functional.pad(image, [max_pad] * 4, mode="reflect")
        image = padded[:, :, view.row : view.row + height, view.column : view.column + width]
    return image.flip(3) if view.flip else image


def _zoomed_crop(image: Float[Tensor, "B C H W"], view: View, max_pad: int) -> Float[Tensor, "B C H W"]:
    """The crop of the padded and bilinearly zoomed image, of which only the crop is computed.

    Positions are clamped to the padded image, then reflected at the borders of the image.
    """
    axes = []
    for first, side in ((view.row, image.shape[2]), (view.column, image.shape[3])):
        zoomed = torch.arange(first, first + side, device=image.device, dtype=torch.float32)
        position = ((zoomed + 0.5) / view.zoom - 0.5).clamp(0, side + 2 * max_pad - 1) - max_pad
        axes.append(position * (2 / max(side - 1, 1)) - 1)
    rows, columns = torch.meshgrid(axes[0], axes[1], indexing="ij")
    grid = torch.stack([columns, rows], dim=-1)[None].expand(len(image), -1, -1, -1)
    sampled = functional.grid_sample(
        image.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=True
    )
    return sampled.to(image.dtype)


def draw_view(size: tuple[int, int], max_pad: int, max_zoom: float, generator: torch.Generator) -> View:
    """A random view: zoomed with probability 1/2, mirrored with probability 1/2, cropped anywhere.

    Args:
        size: rows and columns of the image.
        max_pad: as in `warp`.
        max_zoom: largest zoom.
        generator: of random numbers.
    """
    is_zoomed, zoom, row, column, flip = torch.rand(5, generator=generator).tolist()
    zoom = 1 + (max_zoom - 1) * zoom if is_zoomed < 0.5 else 1.0
    free = [int((side + 2 * max_pad) * zoom) - side for side in size]
    return View(int(row * (free[0] + 1)), int(column * (free[1] + 1)), zoom, flip < 0.5)
