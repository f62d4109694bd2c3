"""Tensors that may be sharded over ranks (model.training.fsdp): their local shards, full tensors and norms.

Each function returns an ordinary tensor unchanged.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor


def local_shard(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """This rank's shard, in the same memory; it is empty on some ranks if there are more ranks than rows."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """The full tensor; every rank has to call it for a sharded one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Shaped[Tensor, "..."], other: Shaped[Tensor, "..."] | None) -> Shaped[Tensor, "..."]:
    """Shard a full tensor, which every rank has, like `other` and on its device; unchanged if that is not sharded."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def norms(tensors: Sequence[Shaped[Tensor, "..."]]) -> Float[Tensor, "tensors"]:
    """The norm of each full tensor, the same on every rank; every rank has to call it for sharded ones."""
    local = torch.stack(torch._foreach_norm([local_shard(tensor) for tensor in tensors]))
    sharded = [isinstance(tensor, DTensor) for tensor in tensors]
    if not any(sharded):
        return local
    squares = local.double().square()
    distributed.all_reduce(squares)
    return squares.sqrt().to(local.dtype).where(torch.tensor(sharded, device=local.device), local)
