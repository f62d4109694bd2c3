"""SimPool, attention pooling of an image or an audio into one vector: a baseline for what dense comparison gains."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from model.dtypes import upcast_half

GAMMA = 1.25


class SimPool(nn.Module):
    """Attention pooling: the query comes from the mean of all cells, keys and values from the normalized cells.

    Values are pooled by a generalized mean with exponent 1.25, weighted by the attention.

    Args:
        channels: channels of the features, all heads together.

    Source: Psomas et al., Keep It SimPool, ICCV 2023; reference 1.2 (gamma 1.25). Differs from the reference, where
    image and audio share one module, the minimum is taken over the whole batch, and masked-out steps are included.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)

    def forward(self, cells: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B D"]:
        """Pool N cells or steps with D channels.

        Args:
            mask: True = valid, at least one in each row; None: all.

        Returns:
            0 or more: values are taken relative to the minimum of the row.
        """
        valid = torch.ones_like(cells[..., 0], dtype=torch.bool) if mask is None else mask
        normal = self.norm(cells)
        query = self.query(torch.einsum("bn,bnd->bd", (valid / valid.sum(dim=1, keepdim=True)).to(cells.dtype), cells))
        attention = upcast_half(torch.einsum("bd,bnd->bn", query, self.key(normal))) / cells.shape[-1] ** 0.5
        attention = attention.masked_fill(~valid, float("-inf")).softmax(dim=1)
        values = upcast_half(normal)
        lowest = values.masked_fill(~valid[..., None], float("inf")).amin(dim=(1, 2), keepdim=True)
        lifted = (values - lowest).clamp(min=1e-6) ** GAMMA
        return torch.einsum("bn,bnd->bd", attention, lifted) ** (1 / GAMMA)
