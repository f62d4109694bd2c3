"""Bicubic resizing as windows of low-resolution cells, and its composition with a filter on the resized grid."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.upsamplers.window import Window, full_window

A = -0.75  # of the cubic kernel, as torch's interpolate(mode="bicubic")


def bicubic_taps(
    source: int, size: int, device: torch.device | str = "cpu"
) -> tuple[Int[Tensor, "size 4"], Float[Tensor, "size 4"]]:
    """The four source cells of each output position along one axis, and their weights; align_corners=False."""
    position = (torch.arange(size, device=device) + 0.5) * (source / size) - 0.5
    base = position.floor()
    distance = (position - base)[:, None] + torch.tensor([1.0, 0.0, -1.0, -2.0], device=device)
    near, far = distance.abs(), distance.abs()
    inner = ((A + 2) * near - (A + 3)) * near * near + 1
    outer = ((A * far - 5 * A) * far + 8 * A) * far - 4 * A
    index = (base.long()[:, None] + torch.arange(-1, 3, device=device)).clamp(0, source - 1)
    return index, torch.where(near <= 1, inner, outer)


def filtered_bicubic(
    source_size: tuple[int, int], filter_rows: Int[Tensor, "H K"], filter_columns: Int[Tensor, "W K"]
) -> tuple[Window, Float[Tensor, "H K R"], Float[Tensor, "W K S"]]:
    """A filter on a bicubically resized grid as one window of the grid itself.

    Args:
        source_size: of the grid.
        filter_rows, filter_columns: positions on the resized grid that the filter reads, for each output position.

    Returns:
        The window; and for each output row (column) the matrix that brings the filter's K rows (columns) to the R (S)
        of the window.
    """
    (rows, row_matrix), (columns, column_matrix) = (
        _compose(source, index) for source, index in zip(source_size, (filter_rows, filter_columns), strict=True)
    )
    return full_window(rows, columns, source_size), row_matrix, column_matrix


def fold(
    kernel: Float[Tensor, "B H W taps"], row_matrix: Float[Tensor, "H K R"], column_matrix: Float[Tensor, "W K S"]
) -> Float[Tensor, "B H W cells"]:
    """Weights for the window of `filtered_bicubic`, from the weights of the filter on the resized grid."""
    side = row_matrix.shape[1]
    by_row = torch.einsum("bhwde,hdi->bhwie", kernel.unflatten(3, (side, side)), row_matrix)
    return torch.einsum("bhwie,wej->bhwij", by_row, column_matrix).contiguous().flatten(3)


def _compose(source: int, positions: Int[Tensor, "N K"]) -> tuple[Int[Tensor, "N R"], Float[Tensor, "N K R"]]:
    taps, weights = bicubic_taps(source, len(positions), positions.device)
    taps, weights = taps[positions], weights[positions]
    first = taps.amin(dim=(1, 2))
    length = int((taps.amax(dim=(1, 2)) - first).max()) + 1
    matrix = weights.new_zeros(*positions.shape, length).scatter_add_(2, taps - first[:, None, None], weights)
    cells = (first[:, None] + torch.arange(length, device=first.device)).clamp(max=source - 1)
    return cells, matrix
