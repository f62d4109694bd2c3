"""Distribute the items of an evaluation over the ranks of a run, batch by batch, and gather the results in order.

Every rank gets all results. Batch i belongs to rank i mod R, so the batches, and with them the last bits of every
number, are the same for any number of ranks. Metrics are computed on every rank alike. A single process needs no
process group.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed
from tqdm import tqdm

from configs.errors import CommandFailed
from model.distributed import world_size

# How long a rank waits for the others: longer than any of them computes between two collective calls.
TIMEOUT_S = 3600.0

Columns = Mapping[str, Tensor]
T = TypeVar("T")

_stop_reason: ContextVar[Callable[[], object]] = ContextVar("stop_reason", default=lambda: None)


class Interrupted(Exception):
    """A rank has a reason to stop; raised on all ranks."""


@contextmanager
def interruptible(stop_reason: Callable[[], object]) -> Iterator[None]:
    """Inside this block `distributed_map` raises Interrupted on all ranks as soon as `stop_reason()` is true on one.

    It is called before each batch.
    """
    token = _stop_reason.set(stop_reason)
    try:
        yield
    finally:
        _stop_reason.reset(token)


@contextmanager
def init_distributed() -> Iterator[None]:
    """Inside this block the processes started by `accelerate launch` form a process group. A single process needs none.

    Raises:
        CommandFailed: another process has ended or does not answer.
    """
    from model.training.launch import create_accelerator, report_lost_peers

    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or world_size() > 1:
        yield
        return
    accelerator = create_accelerator(TIMEOUT_S, [], Path())
    with report_lost_peers(TIMEOUT_S):
        yield
    accelerator.end_training()


def rank() -> int:
    """The rank of this process; 0 without a process group."""
    return distributed.get_rank() if world_size() > 1 else 0


def gather_objects(value: T) -> list[T]:
    """The value of each rank, which must be picklable."""
    values = [value] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(values, value)
    return values


def distributed_map(
    count: int, batch_size: int, function: Callable[[range], Columns], name: str = ""
) -> dict[str, Tensor]:
    """Apply a function to batches of `count` items on all ranks together. Every rank must call it.

    Args:
        count: number of items, at least 1.
        batch_size: items in a batch.
        function: rows of a batch -> columns by name, tensors with one entry for each row. A rank
            without a batch in the last round computes one of another rank's again.
        name: of the progress bar of the first rank.

    Returns:
        The columns for all items in order, on the device of the function's tensors.

    Raises:
        Interrupted: see `interruptible`.
        CommandFailed: the function failed on another rank. On the rank where it failed, its own exception.
    """
    batches = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    ranks = world_size()
    results: dict[str, Tensor] = {}
    rounds = range(0, len(batches), ranks)
    for first in tqdm(rounds, desc=name, unit="batch", dynamic_ncols=True, leave=False, delay=1.0, disable=rank() > 0):
        columns = _run_or_abort(function, batches[min(first + rank(), len(batches) - 1)])
        # Filled in place: concatenating a list of parts would hold all of them twice.
        results = results or {key: column.new_empty(count, *column.shape[1:]) for key, column in columns.items()}
        gathered = batches[first : first + ranks]
        for key, column in columns.items():
            for rows, part in zip(gathered, _gather(column, list(map(len, gathered))), strict=True):
                results[key][rows.start : rows.stop] = part
    return results


def _run_or_abort(function: Callable[[range], Columns], rows: range) -> Columns:
    """This rank's batch, if no rank stops and none fails."""
    stop, error = bool(_stop_reason.get()()), None
    columns: Columns = {}
    try:
        columns = {} if stop else function(rows)
    except Exception as raised:  # raised below, after the other ranks know of it
        error = raised
    stopped, failed = zip(*gather_objects((stop, error is not None)), strict=True)
    if error is not None:
        raise error
    if any(failed):
        raise CommandFailed("the evaluation failed on another process; see its error above")
    if any(stopped):
        raise Interrupted
    return columns


def _gather(column: Shaped[Tensor, "b ..."], lengths: Sequence[int]) -> list[Tensor]:
    """The batches of the first ranks, with these lengths.

    All are padded to the longest: those of the last round differ.
    """
    if world_size() == 1:
        return [column]
    device = "cpu" if distributed.get_backend() == "gloo" else torch.accelerator.current_accelerator()
    sent = torch.zeros(max(lengths), *column.shape[1:], dtype=column.dtype, device=device)
    sent[: len(column)] = column
    as_bytes = sent.view(torch.uint8) if sent.dtype == torch.bool else sent
    parts = [torch.empty_like(as_bytes) for _ in range(world_size())]
    distributed.all_gather(parts, as_bytes)
    return [part.view(column.dtype)[:length].to(column.device) for part, length in zip(parts, lengths, strict=False)]
