"""Small images whose pixels say where they are."""

import torch


def position_image(height_px: int, width_px: int) -> torch.Tensor:
    """uint8 [3, H_px, W_px]: red = row, green = column, blue = 7."""
    rows, columns = torch.meshgrid(torch.arange(height_px), torch.arange(width_px), indexing="ij")
    return torch.stack([rows, columns, torch.full_like(rows, 7)]).to(torch.uint8)
