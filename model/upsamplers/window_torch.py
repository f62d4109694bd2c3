"""The operations of window.py in plain torch: a loop over the cells of the window, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from model.dtypes import upcast_half

if TYPE_CHECKING:
    from model.upsamplers.window import Window

prepare = upcast_half


def mix(
    source: Float[Tensor, "B h w C"], weights: Float[Tensor, "B H W G N"], window: Window
) -> Float[Tensor, "B H W C"]:
    """See window_mix."""
    groups = weights.shape[3]
    out = source.new_zeros(len(source), *window.size, groups, source.shape[3] // groups)
    for cell, rows, columns in _cells(window):
        out += weights[..., cell, None] * _gather(source, rows, columns).unflatten(3, (groups, -1))
    return out.flatten(3)


def scores(
    queries: Float[Tensor, "B H W C"], keys: Float[Tensor, "B h w C"], window: Window, groups: int
) -> Float[Tensor, "B H W G N"]:
    """See window_scores."""
    grouped = queries.unflatten(3, (groups, -1))
    return torch.stack(
        [
            (grouped * _gather(keys, rows, columns).unflatten(3, (groups, -1))).sum(dim=-1)
            for _, rows, columns in _cells(window)
        ],
        dim=-1,
    )


def scatter(
    values: Float[Tensor, "B H W C"], weights: Float[Tensor, "B H W G N"], window: Window
) -> Float[Tensor, "B h w C"]:
    """See window_scatter."""
    height, width = window.source_size
    out = values.new_zeros(len(values), height * width, values.shape[3])
    grouped = values.unflatten(3, (weights.shape[3], -1))
    for cell, rows, columns in _cells(window):
        index = (rows[:, None] * width + columns).flatten()
        out.index_add_(1, index, (weights[..., cell, None] * grouped).flatten(3).flatten(1, 2))
    return out.unflatten(1, (height, width))


def _cells(window: Window) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The cells of the window: number, source row of each output row, source column of each output column."""
    pairs = ((rows, columns) for rows in window.rows.T for columns in window.columns.T)
    return ((cell, rows, columns) for cell, (rows, columns) in enumerate(pairs))


def _gather(source: Float[Tensor, "B h w C"], rows: Tensor, columns: Tensor) -> Float[Tensor, "B H W C"]:
    return source.index_select(1, rows).index_select(2, columns)
