"""Frames of a batch, made on its device from crops: colors, flips, and the assembly of quad mixups."""

import torch
from torch import Tensor

from pipelines.stream.device import to_device
from pipelines.stream.device_color import apply_colors


def frame_fields(
    images: Tensor, tiles: Tensor, colors: Tensor, quadrant: Tensor, device: torch.device
) -> dict[str, Tensor]:
    """The image fields of a batch. All arguments are on the CPU, where a loader worker left them.

    Args:
        images: uint8 [N, H_px, W_px, 3], crops of the rows that show one image, in their order.
        tiles: uint8 [4 (B - N), h_px, w_px, 3], crops of the other rows by quadrant (top left, top right, bottom left,
            bottom right), each of half the size, rounded up.
        colors: float32 [N + 4 (B - N), 10], what was drawn for images and tiles (`ColorDraw.row`).
        quadrant: int64 [B], the quadrant of a row that shows its clip's own image; -1: all of it does.
        device: of the batch.

    Returns:
        `frames` uint8 [B, 3, H_px, W_px], and `image_weight` float32 [B, H_px, W_px], 1 = the clip's own image.
    """
    size, is_single = (images.shape[1], images.shape[2]), quadrant < 0
    whole = apply_colors(to_device(images, device), colors[: len(images)])
    if not len(tiles):
        return {"frames": whole, "image_weight": torch.ones(len(whole), *size, device=device)}
    quads = assemble_quads(apply_colors(to_device(tiles, device), colors[len(images) :]), size)
    # rows of [images, quads] in the order of the batch
    order = torch.where(is_single, is_single.cumsum(0) - 1, len(images) + (~is_single).cumsum(0) - 1)
    frames = torch.cat([whole, quads]).index_select(0, to_device(order, device))
    return {"frames": frames, "image_weight": image_weight(to_device(quadrant, device), size)}


def assemble_quads(tiles: Tensor, size: tuple[int, int]) -> Tensor:
    """2x2 grids of tiles.

    Args:
        tiles: uint8 [4 N, 3, h_px, w_px], for each grid top left, top right, bottom left, bottom right; half of `size`,
            rounded up. Where `size` is odd, tiles at the top and the left lose their last row or column.
        size: H_px, W_px of the grid.

    Returns:
        uint8 [N, 3, H_px, W_px].

    Source: reference 1.4, quad mixup.
    """
    (height, width), grouped = size, tiles.unflatten(0, (-1, 4))
    middle_row, middle_column = height // 2, width // 2
    grid = tiles.new_empty(len(grouped), 3, height, width)
    grid[:, :, :middle_row, :middle_column] = grouped[:, 0, :, :middle_row, :middle_column]
    grid[:, :, :middle_row, middle_column:] = grouped[:, 1, :, :middle_row]
    grid[:, :, middle_row:, :middle_column] = grouped[:, 2, :, :, :middle_column]
    grid[:, :, middle_row:, middle_column:] = grouped[:, 3]
    return grid


def image_weight(quadrant: Tensor, size: tuple[int, int]) -> Tensor:
    """float32 [B, H_px, W_px]: 1 in the quadrant [B] of each row, 0 elsewhere; 1 everywhere where it is -1."""
    height, width = size
    row = torch.arange(height, device=quadrant.device)[:, None] >= height // 2
    column = torch.arange(width, device=quadrant.device) >= width // 2
    quadrant = quadrant[:, None, None]
    return ((quadrant < 0) | (2 * row + 1 * column == quadrant)).float()
