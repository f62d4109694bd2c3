"""The operations of window.py on a CPU: one compiled pass over channels-last data, in parallel over rows.

numba compiles them at the first call and keeps the result for later processes, if a folder for it can be written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from model.dtypes import upcast_half

if TYPE_CHECKING:
    from model.upsamplers.window import Window

# So few channels are summed two at a time, in registers; more of them all at once, in the output.
NARROW = 4
# Fewer products than this take less time than waking another thread on a busy machine.
PARALLEL_PRODUCTS = 2**21

Function = Callable[..., None]

prepare = upcast_half


def mix(
    source: Float[Tensor, "B h w C"], weights: Float[Tensor, "B H W G N"], window: Window
) -> Float[Tensor, "B H W C"]:
    """See window_mix."""
    out = source.new_empty(len(source), *window.size, source.shape[3])
    _call(_mix, weights.numel() * source.shape[3], source, weights, window.rows, window.columns, out)
    return out


def scores(
    queries: Float[Tensor, "B H W C"], keys: Float[Tensor, "B h w C"], window: Window, groups: int
) -> Float[Tensor, "B H W G N"]:
    """See window_scores."""
    out = queries.new_empty(*queries.shape[:3], groups, window.cells)
    _call(_scores, out.numel() * keys.shape[3], queries, keys, window.rows, window.columns, out)
    return out


def scatter(
    values: Float[Tensor, "B H W C"], weights: Float[Tensor, "B H W G N"], window: Window
) -> Float[Tensor, "B h w C"]:
    """See window_scatter; in parallel over rows of the source, each with the output rows that use it."""
    out = values.new_empty(len(values), *window.source_size, values.shape[3])
    lists = *window.row_users, *window.column_users
    _call(_scatter, weights.numel() * values.shape[3], values, weights, *lists, window.columns.shape[1], out)
    return out


def _call(function: Callable[..., None], products: int, *args: Tensor | int) -> None:
    """Run a function that makes so many products (times the number of groups)."""
    most: int = numba.config.NUMBA_NUM_THREADS
    threads = torch.get_num_threads()
    numba.set_num_threads(1 if products < PARALLEL_PRODUCTS else min(threads, most))
    function(*(arg.numpy() if isinstance(arg, Tensor) else arg for arg in args))
    if torch.get_num_threads() != threads:  # numba starts its threads by a setting of OpenMP that torch shares
        torch.set_num_threads(threads)


def _compiled(function: Function) -> Function:
    """Compile a function; unwrapped, because tests/conftest.py wraps functions to check shapes."""
    options: dict[str, Any] = {"parallel": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
    plain = inspect.unwrap(function)
    try:
        return numba.njit(cache=True, **options)(plain)
    except RuntimeError:  # no folder for the compiled code can be written
        return numba.njit(**options)(plain)


@_compiled
def _mix(source: np.ndarray, weights: np.ndarray, rows: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    batch, height, width, groups, _ = weights.shape
    part, window_columns = source.shape[3] // groups, columns.shape[1]
    for line in numba.prange(batch * height):
        b, y = line // height, line % height
        for x in range(width):
            for g in range(groups):
                weight = weights[b, y, x, g]
                total = out[b, y, x, g * part : (g + 1) * part]
                if part <= NARROW:
                    for c in range(0, part, 2):
                        other = min(c + 1, part - 1)
                        first, second = weight[0] * 0, weight[0] * 0
                        for i in range(rows.shape[1]):
                            line_cells = source[b, rows[y, i]]
                            for j in range(window_columns):
                                factor, column = weight[i * window_columns + j], columns[x, j]
                                first += factor * line_cells[column, g * part + c]
                                second += factor * line_cells[column, g * part + other]
                        total[c], total[other] = first, second
                else:
                    total[:] = 0
                    for i in range(rows.shape[1]):
                        for j in range(window_columns):
                            cell = source[b, rows[y, i], columns[x, j], g * part : (g + 1) * part]
                            factor = weight[i * window_columns + j]
                            for c in range(part):
                                total[c] += factor * cell[c]


@_compiled
def _scatter(
    values: np.ndarray,
    weights: np.ndarray,
    row_users: np.ndarray,
    row_starts: np.ndarray,
    column_users: np.ndarray,
    column_starts: np.ndarray,
    window_columns: int,
    out: np.ndarray,
) -> None:
    batch, height, width, _ = out.shape
    groups = weights.shape[3]
    part = out.shape[3] // groups
    for line in numba.prange(batch * height):
        b, row = line // height, line % height
        for column in range(width):
            for g in range(groups):
                total = out[b, row, column, g * part : (g + 1) * part]
                total[:] = 0
                for m in range(row_starts[row], row_starts[row + 1]):
                    y, i = row_users[m]
                    for n in range(column_starts[column], column_starts[column + 1]):
                        x, j = column_users[n]
                        value = values[b, y, x, g * part : (g + 1) * part]
                        factor = weights[b, y, x, g, i * window_columns + j]
                        for c in range(part):
                            total[c] += factor * value[c]


@_compiled
def _scores(queries: np.ndarray, keys: np.ndarray, rows: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    batch, height, width, groups, _ = out.shape
    part, window_columns = queries.shape[3] // groups, columns.shape[1]
    for line in numba.prange(batch * height):
        b, y = line // height, line % height
        for x in range(width):
            for g in range(groups):
                query = queries[b, y, x, g * part : (g + 1) * part]
                for i in range(rows.shape[1]):
                    for j in range(window_columns):
                        key = keys[b, rows[y, i], columns[x, j], g * part : (g + 1) * part]
                        total = query[0] * 0
                        for c in range(part):
                            total += query[c] * key[c]
                        out[b, y, x, g, i * window_columns + j] = total
