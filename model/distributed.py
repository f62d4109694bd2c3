"""Collectives with gradients, on any backend: gather the pairs of all ranks, sum over ranks, index the global batch.

Backward passes sum the gradients of all ranks. This is right if every rank computes the same loss from the gathered
values and DDP then averages the parameters' gradients over ranks. torch's differentiable gather is not used: it mixes
up the gradients of tensors that are not contiguous (torch 2.13, gloo, channels-last features) and is deprecated.
"""

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, distributed


def world_size() -> int:
    """The number of ranks; 1 without a process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The rank of this process; 0 without a process group."""
    return distributed.get_rank() if world_size() > 1 else 0


def all_gather_batch(local: Shaped[Tensor, "b *rest"]) -> Shaped[Tensor, "B *rest"]:
    """Gather the rows [B / R, ...] of all R ranks in the order of the global batch [B, ...]: row p is on rank p mod R.

    Every rank has the same number of rows.
    """
    return local if world_size() == 1 else _GatherPairs.apply(local)


def all_reduce_sum(local: Shaped[Tensor, "*n"]) -> Shaped[Tensor, "*n"]:
    """The sum of the tensors of all ranks, which have the same shape."""
    return local if world_size() == 1 else _SumOverRanks.apply(local)


def index_global_batch(local: Float[Tensor, "b N *rest"], index: Int[Tensor, "M"]) -> Float[Tensor, "M *rest"]:
    """Select entries of the global batch [B, N, ...], of which every rank has B / R rows as in `all_gather_batch`.

    Args:
        local: this rank's rows.
        index: positions in the flattened batch [B * N, ...].
    """
    pair, entry = index.to(local.device) // local.shape[1], index.to(local.device) % local.shape[1]
    taken = local[pair // world_size(), entry]
    if world_size() == 1:
        return taken
    is_local = (pair % world_size() == rank()).view(-1, *[1] * (taken.ndim - 1))
    return all_reduce_sum(torch.where(is_local, taken, 0))


class _GatherPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty(local.shape, dtype=local.dtype, device=local.device) for _ in range(world_size())]
        distributed.all_gather(parts, local.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient)[rank() :: world_size()]


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    backward = forward
