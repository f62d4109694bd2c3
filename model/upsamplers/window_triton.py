"""The operations of window.py on a GPU: one Triton kernel each, over channels-last data.

A program computes a block of the output completely. In `mix` and `scores`, pixels read the cells of their windows; in
`scatter`, a source cell reads the pixels whose windows contain it. So there are no atomics, repeated runs give the same
bits, and nothing is unfolded. Operands are read in their own dtype, products and sums are made in float32 (float64 for
float64), and the result is rounded once to the wider dtype of the operands.

Written for sm_80 and sm_90; tests/model/upsamplers/test_window_triton.py compiles for both without a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from model.triton_jit import kernel

if TYPE_CHECKING:
    from model.upsamplers.window import Window

# Numbers that a program accumulates, and how many of them are channels, pixels or cells at most.
TILE, MAX_CHANNELS, MAX_PIXELS = 2048, 64, 256
SCORE_PIXELS, SCORE_CELLS, SCORE_CHANNELS = 8, 16, 32


def prepare(operand: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The operand as it is: kernels read every dtype."""
    return operand


def mix(
    source: Float[Tensor, "B h w C"], weights: Float[Tensor, "B H W G N"], window: Window
) -> Float[Tensor, "B H W C"]:
    """See window_mix."""
    batch, height, width, groups, _ = weights.shape
    out = _new(source, weights, (batch, height, width, source.shape[3]))
    part = source.shape[3] // groups
    channels, pixels = _tile(part)
    grid = (batch * height * triton.cdiv(width, pixels), groups * triton.cdiv(part, channels))
    columns = window.columns.shape[1]
    sizes = height, width, *window.source_size, groups, part, window.cells, columns
    _launch(_mix, grid, (source, weights, window.rows, window.columns, out), sizes, PIXELS=pixels, CHANNELS=channels)
    return out


def scores(
    queries: Float[Tensor, "B H W C"], keys: Float[Tensor, "B h w C"], window: Window, groups: int
) -> Float[Tensor, "B H W G N"]:
    """See window_scores."""
    batch, height, width, all_channels = queries.shape
    out = _new(queries, keys, (batch, height, width, groups, window.cells))
    part = all_channels // groups
    channels = min(SCORE_CHANNELS, triton.next_power_of_2(part))
    grid = (batch * height * triton.cdiv(width, SCORE_PIXELS), groups * triton.cdiv(window.cells, SCORE_CELLS))
    sizes = height, width, *window.source_size, groups, part, window.cells, window.columns.shape[1]
    tile = {"PIXELS": SCORE_PIXELS, "CELLS": SCORE_CELLS, "CHANNELS": channels}
    _launch(_scores, grid, (queries, keys, window.rows, window.columns, out), sizes, **tile)
    return out


def scatter(
    values: Float[Tensor, "B H W C"], weights: Float[Tensor, "B H W G N"], window: Window
) -> Float[Tensor, "B h w C"]:
    """See window_scatter."""
    batch, height, width, groups, _ = weights.shape
    rows, columns = window.source_size
    out = _new(values, weights, (batch, rows, columns, values.shape[3]))
    part = values.shape[3] // groups
    channels, pixels = _tile(part)
    grid = (batch * rows * columns, groups * triton.cdiv(part, channels))
    sizes = height, width, rows, columns, groups, part, window.cells, window.columns.shape[1]
    _launch(
        _scatter,
        grid,
        (values, weights, *window.row_users, *window.column_users, out),
        sizes,
        PIXELS=pixels,
        CHANNELS=channels,
    )
    return out


def _new(first: Tensor, second: Tensor, shape: tuple[int, ...]) -> Tensor:
    return first.new_empty(shape, dtype=torch.promote_types(first.dtype, second.dtype))


def _tile(channels: int) -> tuple[int, int]:
    """Channels and pixels of a program's tile."""
    channels = min(MAX_CHANNELS, triton.next_power_of_2(channels))
    return channels, min(MAX_PIXELS, TILE // channels)


def _launch(
    function: Any, grid: tuple[int, int], tensors: tuple[Tensor, ...], sizes: tuple[int, ...], **constants: int
) -> None:
    total = tl.float64 if tensors[-1].dtype == torch.float64 else tl.float32
    with torch.cuda.device_of(tensors[-1]):
        function[grid](*tensors, *sizes, TOTAL=total, **constants)


@kernel
@no_type_check
def _mix(
    source_ptr,
    weight_ptr,
    rows_ptr,
    columns_ptr,
    out_ptr,
    height,
    width,
    source_rows,
    source_columns,
    groups,
    part,
    cells,
    window_columns,
    TOTAL: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """PIXELS pixels of a row, CHANNELS channels of a group."""
    blocks = tl.cdiv(width, PIXELS)
    line = tl.program_id(0) // blocks
    x = tl.program_id(0) % blocks * PIXELS + tl.arange(0, PIXELS)
    channel_blocks = tl.cdiv(part, CHANNELS)
    group = tl.program_id(1) // channel_blocks
    channel = tl.program_id(1) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    inside, used = x < width, channel < part
    pixel = line.to(tl.int64) * width + x
    first_row = (line // height).to(tl.int64) * source_rows
    total = tl.zeros([PIXELS, CHANNELS], TOTAL)
    for n in tl.range(0, cells):
        row = first_row + tl.load(rows_ptr + line % height * (cells // window_columns) + n // window_columns)
        column = tl.load(columns_ptr + x * window_columns + n % window_columns, mask=inside, other=0)
        weight = tl.load(weight_ptr + (pixel * groups + group) * cells + n, mask=inside, other=0.0).to(TOTAL)
        at = ((row * source_columns + column) * groups + group)[:, None] * part + channel[None, :]
        cell = tl.load(source_ptr + at, mask=inside[:, None] & used[None, :], other=0.0)
        total += weight[:, None] * cell.to(TOTAL)
    at = (pixel * groups + group)[:, None] * part + channel[None, :]
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=inside[:, None] & used[None, :])


@kernel
@no_type_check
def _scores(
    query_ptr,
    key_ptr,
    rows_ptr,
    columns_ptr,
    out_ptr,
    height,
    width,
    source_rows,
    source_columns,
    groups,
    part,
    cells,
    window_columns,
    TOTAL: tl.constexpr,
    PIXELS: tl.constexpr,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """PIXELS pixels of a row, CELLS cells of their windows, one group."""
    blocks = tl.cdiv(width, PIXELS)
    line = tl.program_id(0) // blocks
    x = tl.program_id(0) % blocks * PIXELS + tl.arange(0, PIXELS)
    cell_blocks = tl.cdiv(cells, CELLS)
    group = tl.program_id(1) // cell_blocks
    n = tl.program_id(1) % cell_blocks * CELLS + tl.arange(0, CELLS)
    inside = (x < width)[:, None] & (n < cells)[None, :]
    pixel = line.to(tl.int64) * width + x
    first_row = (line // height).to(tl.int64) * source_rows
    row_at = rows_ptr + line % height * (cells // window_columns) + n // window_columns
    row = first_row + tl.load(row_at, mask=n < cells, other=0)
    column_at = columns_ptr + x[:, None] * window_columns + (n % window_columns)[None, :]
    cell = row[None, :] * source_columns + tl.load(column_at, mask=inside, other=0)
    query_at, key_at = (pixel * groups + group) * part, (cell * groups + group) * part
    total = tl.zeros([PIXELS, CELLS], TOTAL)
    for first in tl.range(0, part, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        query_mask = (x < width)[:, None] & (channel < part)[None, :]
        query = tl.load(query_ptr + query_at[:, None] + channel[None, :], mask=query_mask, other=0.0).to(TOTAL)
        key_mask = inside[:, :, None] & (channel < part)[None, None, :]
        key = tl.load(key_ptr + key_at[:, :, None] + channel[None, None, :], mask=key_mask, other=0.0).to(TOTAL)
        total += tl.sum(query[:, None, :] * key, 2)
    at = (pixel * groups + group)[:, None] * cells + n[None, :]
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=inside)


@kernel
@no_type_check
def _scatter(
    value_ptr,
    weight_ptr,
    row_users_ptr,
    row_starts_ptr,
    column_users_ptr,
    column_starts_ptr,
    out_ptr,
    height,
    width,
    source_rows,
    source_columns,
    groups,
    part,
    cells,
    window_columns,
    TOTAL: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One source cell, CHANNELS channels of a group: PIXELS of the pixels that use the cell at a time."""
    cell = tl.program_id(0).to(tl.int64)
    row, column = cell // source_columns % source_rows, cell % source_columns
    first_line = cell // source_columns // source_rows * height
    channel_blocks = tl.cdiv(part, CHANNELS)
    group = tl.program_id(1) // channel_blocks
    channel = tl.program_id(1) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    used = channel < part
    row_start, column_start = tl.load(row_starts_ptr + row), tl.load(column_starts_ptr + column)
    rows = tl.load(row_starts_ptr + row + 1) - row_start
    columns = tl.load(column_starts_ptr + column + 1) - column_start
    total = tl.zeros([PIXELS, CHANNELS], TOTAL)
    for first in tl.range(0, rows * columns, PIXELS):
        user = first + tl.arange(0, PIXELS)
        inside = user < rows * columns
        row_user = row_users_ptr + 2 * (row_start + user // columns)
        column_user = column_users_ptr + 2 * (column_start + user % columns)
        y, x = tl.load(row_user, mask=inside, other=0), tl.load(column_user, mask=inside, other=0)
        n = tl.load(row_user + 1, mask=inside, other=0) * window_columns
        n += tl.load(column_user + 1, mask=inside, other=0)
        at = ((first_line + y) * width + x) * groups + group
        weight = tl.load(weight_ptr + at * cells + n, mask=inside, other=0.0).to(TOTAL)
        value_mask = inside[:, None] & used[None, :]
        value = tl.load(value_ptr + at[:, None] * part + channel[None, :], mask=value_mask, other=0.0)
        total += weight[:, None] * value.to(TOTAL)
    at = (cell * groups + group) * part + channel
    tl.store(out_ptr + at, tl.sum(total, 0).to(out_ptr.dtype.element_ty), mask=used)
