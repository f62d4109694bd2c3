"""The operator of all windowed upsamplers: each output pixel mixes a small window of source cells.

A window is rows times columns of the source, chosen for each output row and each output column. Three operations on
channels-last tensors are each other's gradients, so they need no code of their own for the backward pass:

    window_mix(source, weights)      out[y, x] = sum over cells (i, j) of weights[y, x, i, j] * source[i, j]
    window_scores(queries, keys)     out[y, x, i, j] = queries[y, x] . keys[i, j]
    window_scatter(values, weights)  out[i, j] = sum over pixels (y, x) of weights[y, x, i, j] * values[y, x]

Nothing is unfolded: the largest tensor beside inputs and outputs has one number for each pixel and cell of its window.
numba compiles one pass for a CPU (window_numba.py), Triton for a CUDA device (window_triton.py). Without them, and on
other devices, a loop over the cells of the window runs in torch (window_torch.py). Sums are made in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Users(NamedTuple):
    """The output rows (or columns) that use each row (column) of the source.

    Attributes:
        pairs: output row and place in its window, in the order of the source rows that they use.
        starts: of the part of each source row among the pairs, and the end of the last.
    """

    pairs: Int[Tensor, "N_users 2"]
    starts: Int[Tensor, "N_starts"]


class Window(NamedTuple):
    """The cells that each output pixel mixes: row `rows[y, i]`, column `columns[x, j]` of the source.

    Attributes:
        rows: of each output row.
        columns: of each output column.
        source_size: rows and columns of the source.
        valid_rows, valid_columns: False = padding of a shorter window, which has to have weight 0.
    """

    rows: Int[Tensor, "H R"]
    columns: Int[Tensor, "W S"]
    source_size: tuple[int, int]
    valid_rows: Bool[Tensor, "H R"]
    valid_columns: Bool[Tensor, "W S"]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        return len(self.rows), len(self.columns)

    @property
    def cells(self) -> int:
        """Number of cells of a window, R * S."""
        return self.rows.shape[1] * self.columns.shape[1]

    @property
    def valid(self) -> Bool[Tensor, "H W N"]:
        """Which cells of each window are not padding."""
        return (self.valid_rows[:, None, :, None] & self.valid_columns[None, :, None, :]).flatten(2)

    @property
    def row_users(self) -> Users:
        """Which output rows use each row of the source."""
        return _users(self.rows, self.source_size[0])

    @property
    def column_users(self) -> Users:
        """Which output columns use each column of the source."""
        return _users(self.columns, self.source_size[1])

    def split_rows(self, rows: int) -> Iterator[Window]:
        """The windows of blocks of output rows."""
        for part, valid in zip(self.rows.split(rows), self.valid_rows.split(rows), strict=True):
            yield self._replace(rows=part, valid_rows=valid)

    def to(self, device: torch.device) -> Window:
        """The same window on a device."""
        if self.rows.device == device:
            return self
        rows, columns, valid_rows, valid_columns = (
            part.to(device) for part in (self.rows, self.columns, self.valid_rows, self.valid_columns)
        )
        return Window(rows, columns, self.source_size, valid_rows, valid_columns)


def window_mix(
    source: Float[Tensor, "B h w C"], weights: Float[Tensor, "B H W G N"], window: Window
) -> Float[Tensor, "B H W C"]:
    """Mix the cells of each window; group g of G equal parts of the channels has weights of its own.

    Raises:
        ValueError: C is not a multiple of G, or the sizes do not fit the window.
    """
    _check(window, source.shape, weights.shape)
    return _Mix.apply(source, weights, window)


def window_scores(
    queries: Float[Tensor, "B H W C"], keys: Float[Tensor, "B h w C"], window: Window, groups: int = 1
) -> Float[Tensor, "B H W G N"]:
    """Inner products of each query with the keys of its window, for each of `groups` equal parts of the channels.

    Cells that are padding have some finite value.

    Raises:
        ValueError: C is not a multiple of `groups`, or the sizes do not fit the window.
    """
    _check(window, keys.shape, (*queries.shape[:3], groups, window.cells))
    return _Scores.apply(queries, keys, window, groups)


def window_scatter(
    values: Float[Tensor, "B H W C"], weights: Float[Tensor, "B H W G N"], window: Window
) -> Float[Tensor, "B h w C"]:
    """The transpose of window_mix: add each value to the cells of its window, by weight."""
    return _Scatter.apply(values, weights, window)


def centered_window(size: tuple[int, int], radius: int, padding: Callable[[Tensor, int], Tensor]) -> Window:
    """A window of 2 * radius + 1 rows and columns around each cell, of a source as large as the output.

    Args:
        size: rows and columns.
        radius: in cells.
        padding: brings indices outside the source inside, as `reflect`.
    """
    rows, columns = (padding(torch.arange(n)[:, None] + torch.arange(-radius, radius + 1), n) for n in size)
    return full_window(rows, columns, size)


def full_window(rows: Int[Tensor, "H R"], columns: Int[Tensor, "W S"], source_size: tuple[int, int]) -> Window:
    """A window without padding."""
    valid = (torch.ones_like(part, dtype=torch.bool) for part in (rows, columns))
    return Window(rows, columns, source_size, *valid)


def reflect(index: Int[Tensor, "*"], size: int) -> Int[Tensor, "*"]:
    """Indices reflected at the first and last cell, as torch's padding_mode="reflect".

    Raises:
        ValueError: an index lies farther outside than the source is long.
    """
    reflected = index.abs()
    reflected = torch.where(reflected >= size, 2 * (size - 1) - reflected, reflected)
    if size < 2 or bool((reflected < 0).any()):
        raise ValueError(f"a grid of {size} cells is too small for a window that reaches {int(-index.min())} cells out")
    return reflected


def _users(indices: Int[Tensor, "N K"], size: int) -> Users:
    order = indices.flatten().argsort(stable=True)
    starts = torch.searchsorted(indices.flatten()[order], torch.arange(size + 1, device=indices.device))
    return Users(torch.stack([order // indices.shape[1], order % indices.shape[1]], dim=1), starts)


def _check(window: Window, source: Any, weights: Any) -> None:
    batch, *size, groups, cells = weights
    if (source[0], *source[1:3], *size, cells) != (batch, *window.source_size, *window.size, window.cells):
        raise ValueError(
            f"source {list(source)} and weights {list(weights)} do not fit a window of {window.cells} cells from "
            f"{window.source_size} to {window.size}"
        )
    if source[3] % groups:
        raise ValueError(f"{source[3]} channels cannot be divided into {groups} groups")


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, weights: Tensor, window: Window) -> Tensor:
        ctx.save_for_backward(source, weights)
        ctx.window = window
        return _run("mix", source, weights, window)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        source, weights = ctx.saved_tensors
        grad_source = window_scatter(grads[0], weights, ctx.window) if ctx.needs_input_grad[0] else None
        groups = weights.shape[3]
        grad_weights = window_scores(grads[0], source, ctx.window, groups) if ctx.needs_input_grad[1] else None
        return grad_source, grad_weights, None


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, window: Window, groups: int) -> Tensor:
        ctx.save_for_backward(queries, keys)
        ctx.window = window
        return _run("scores", queries, keys, window, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys = ctx.saved_tensors
        grad_queries = window_mix(keys, grads[0], ctx.window) if ctx.needs_input_grad[0] else None
        grad_keys = window_scatter(queries, grads[0], ctx.window) if ctx.needs_input_grad[1] else None
        return grad_queries, grad_keys, None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, window: Window) -> Tensor:
        ctx.save_for_backward(values, weights)
        ctx.window = window
        return _run("scatter", values, weights, window)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, weights = ctx.saved_tensors
        grad_values = window_mix(grads[0], weights, ctx.window) if ctx.needs_input_grad[0] else None
        groups = weights.shape[3]
        grad_weights = window_scores(values, grads[0], ctx.window, groups) if ctx.needs_input_grad[1] else None
        return grad_values, grad_weights, None


def _run(operation: str, first: Tensor, second: Tensor, window: Window, *args: int) -> Tensor:
    """Run an operation in the implementation of the device, in float32 at least; the result has the wider dtype."""
    dtype = torch.promote_types(first.dtype, second.dtype)
    implementation = _implementation(first.device.type)
    first, second = (implementation.prepare(one.detach()).contiguous() for one in (first, second))
    return getattr(implementation, operation)(first, second, window.to(first.device), *args).to(dtype)


@cache
def _implementation(device: str) -> ModuleType:
    """The module of a device: mix, scores, scatter, and prepare, which brings operands to a dtype that it reads."""
    if device == "cpu" and find_spec("numba"):
        from model.upsamplers import window_numba

        return window_numba
    if device == "cuda" and find_spec("triton"):
        from model.upsamplers import window_triton

        return window_triton
    from model.upsamplers import window_torch

    return window_torch
