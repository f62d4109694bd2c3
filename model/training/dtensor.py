"""Tensors of which each rank may hold a part (model.training.fsdp): their parts, wholes and norms. An undivided tensor is its own part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor


def local_shard(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """What this rank holds, in the same memory; without entries where the ranks are more than the rows."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """All of it; every rank has to call it for a divided one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Shaped[Tensor, "..."], other: Shaped[Tensor, "..."] | None) -> Shaped[Tensor, "..."]:
    """A tensor that every rank has all of, divided as the other one is, on its device; as it came where that one is not divided."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def norms(tensors: Sequence[Shaped[Tensor, "..."]]) -> Float[Tensor, "tensors"]:
    """The norm of each whole tensor; every rank has to call it for divided ones, and all get the same."""
    own = torch.stack(torch._foreach_norm([local_shard(tensor) for tensor in tensors]))
    divided = [isinstance(tensor, DTensor) for tensor in tensors]
    if not any(divided):
        return own
    squares = own.double().square()
    distributed.all_reduce(squares)
    return squares.sqrt().to(own.dtype).where(torch.tensor(divided, device=own.device), own)
