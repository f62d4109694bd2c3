"""Collectives with gradient, on any backend: gather the pairs of all ranks, sum over all ranks, take some entries of the global batch.

Both backward passes sum what all ranks send: right where every rank computes the same loss from what was gathered, and DDP then averages
the parameters' gradients over ranks. Own code because torch's differentiable gather mixes up the gradients of tensors that are not
contiguous (torch 2.13, gloo, channels-last features) and is deprecated.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, distributed


def world_size() -> int:
    """How many ranks there are: 1 without a process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def all_gather_batch(local: Shaped[Tensor, "b *rest"]) -> Shaped[Tensor, "B *rest"]:
    """All ranks' rows [B / R, ...] in the order of the global batch [B, ...]: row p lives on rank p mod R. Every rank has equally many."""
    return local if world_size() == 1 else _GatherPairs.apply(local)


def all_reduce_sum(local: Shaped[Tensor, "*n"]) -> Shaped[Tensor, "*n"]:
    """The sum of all ranks' tensors of one shape."""
    return local if world_size() == 1 else _SumOverRanks.apply(local)


def index_global_batch(local: Float[Tensor, "b N *rest"], index: Int[Tensor, "M"]) -> Float[Tensor, "M *rest"]:
    """Entries of the global batch [B, N, ...], of which every rank holds B / R rows as in `all_gather_batch`, by their number in [B * N]."""
    ranks, rank = world_size(), distributed.get_rank() if world_size() > 1 else 0
    pair, entry = index.to(local.device) // local.shape[1], index.to(local.device) % local.shape[1]
    taken = local[pair // ranks, entry]
    return (
        taken
        if ranks == 1
        else all_reduce_sum(torch.where((pair % ranks == rank).view(-1, *[1] * (taken.ndim - 1)), taken, 0))
    )


class _GatherPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: Tensor) -> Tensor:
        parts = [torch.empty(local.shape, dtype=local.dtype, device=local.device) for _ in range(world_size())]
        distributed.all_gather(parts, local.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient[distributed.get_rank() :: world_size()]


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: Tensor) -> Tensor:
        total = local.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total
