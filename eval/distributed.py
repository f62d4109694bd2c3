"""Work on the items of an evaluation, batch by batch, dealt to the ranks of a run and put together again in the order of the items.

Every rank gets all results. Batch i belongs to rank i mod R, so the batches, and with them the last bits of every number, are the same on any number of
ranks. One process works without a process group. What every rank computes alone from all results (metrics) is the same on each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed

from configs.errors import CommandFailed
from model.distributed import world_size

# How long a rank waits for another one: longer than any of them computes alone.
TIMEOUT_S = 3600.0

Columns = Sequence[Tensor]

_heard: ContextVar[Callable[[], object]] = ContextVar("heard", default=lambda: False)


class Interrupted(Exception):
    """Some rank was told to stop; all of them have left their work."""


@contextmanager
def interruptible(local_reason: Callable[[], object]) -> Iterator[None]:
    """Inside this block `distributed_map` asks before each batch whether this rank should stop, and if one should, all raise Interrupted."""
    token = _heard.set(local_reason)
    try:
        yield
    finally:
        _heard.reset(token)


@contextmanager
def init_distributed() -> Iterator[None]:
    """Inside this block the processes that `accelerate launch` has started are ranks of one evaluation; one process alone meets nobody.

    Raises:
        CommandFailed: another process has ended, or does not answer.
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
    """Which of the ranks this process is: 0 without a process group."""
    return distributed.get_rank() if world_size() > 1 else 0


def distributed_map(count: int, batch_size: int, work: Callable[[range], Columns], name: str = "") -> list[Tensor]:
    """What `work` makes of `count` items, on all ranks together; every rank has to call it.

    Args:
        count: of items, at least one.
        batch_size: items at once.
        work: rows of a batch -> tensors with one entry for each row. A rank may do a batch that is another one's.
        name: for the progress bar of the first rank.

    Returns:
        The same tensors with the entries of all items in their order, on the device where `work` left them.

    Raises:
        Interrupted: see `interruptible`.
        CommandFailed: `work` has failed on another rank. On that one, whatever it raised.
    """
    from tqdm import tqdm

    starts, ranks = range(0, count, batch_size), world_size()
    found: list[Tensor] = []
    rounds = range(0, len(starts), ranks)
    for first in tqdm(rounds, desc=name, unit="batch", dynamic_ncols=True, leave=False, delay=1.0, disable=rank() > 0):
        start = starts[min(first + rank(), len(starts) - 1)]  # who has none left makes up the numbers
        own = _run_or_abort(work, range(start, min(start + batch_size, count)))
        # Filled in as they come: in a list of parts to be joined, all of them would be held twice.
        found = found or [column.new_empty(count, *column.shape[1:]) for column in own]
        places = [slice(start, min(start + batch_size, count)) for start in starts[first : first + ranks]]
        for column, whole in zip(own, found, strict=True):
            for place, part in zip(
                places, _of_all_ranks(column, [place.stop - place.start for place in places]), strict=True
            ):
                whole[place] = part
    return found


def distributed_columns(
    count: int, batch_size: int, function: Callable[[range], Mapping[str, Tensor]], name: str = ""
) -> dict[str, Tensor]:
    """`distributed_map` for columns with names, the same in every batch."""
    names: list[str] = []

    def columns(rows: range) -> Columns:
        batch = function(rows)
        names[:] = batch
        return list(batch.values())

    return dict(zip(names, distributed_map(count, batch_size, columns, name), strict=True))


def _run_or_abort(work: Callable[[range], Columns], rows: range) -> Columns:
    """The rank's own part, if no rank was told to stop and none failed."""
    stop, made, error = bool(_heard.get()()), (), None
    try:
        made = () if stop else work(rows)
    except Exception as raised:  # told to the other ranks, then raised
        error = raised
    told = [(stop, error is not None)]
    if world_size() > 1:
        told = [None] * world_size()
        distributed.all_gather_object(told, (stop, error is not None))
    if error is not None:
        raise error
    if any(failed for _, failed in told):
        raise CommandFailed("another process of the run could not go on with the evaluation, and says why")
    if any(stops for stops, _ in told):
        raise Interrupted
    return made


def _of_all_ranks(own: Shaped[Tensor, "b ..."], lengths: Sequence[int]) -> list[Tensor]:
    """The first ranks' batches, of these lengths. Those in the last round differ by one, so all are sent as long as the longest."""
    if world_size() == 1:
        return [own]
    device = "cpu" if distributed.get_backend() == "gloo" else torch.accelerator.current_accelerator()
    sent = torch.zeros(max(lengths), *own.shape[1:], dtype=own.dtype, device=device)
    sent[: len(own)] = own
    as_bytes = sent.view(torch.uint8) if sent.dtype == torch.bool else sent
    parts = [torch.empty_like(as_bytes) for _ in range(world_size())]
    distributed.all_gather(parts, as_bytes)
    return [part.view(own.dtype)[:length].to(own.device) for part, length in zip(parts, lengths, strict=False)]
