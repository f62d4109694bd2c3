"""Fully sharded data parallel (FSDP): weights, gradients and optimizer moments are sharded over the ranks.

torch's FSDP2 shards the encoders layer by layer, and the projections. It accepts no parameter without dimensions, so
scale and bias of the logits stay unsharded on every rank. Elementwise operations (optimizer, moving average) work on
local shards; norms are those of full tensors, and files hold full tensors, so they are the same for any number of
processes. Every function here leaves an unsharded model unchanged.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from model.denseav import DenseAV
from model.distributed import world_size
from model.encoders.encoder import Encoder
from model.training.ema import ModelEma


def shard_model(model: DenseAV, precision: str) -> None:
    """Shard a model over all ranks, in place; a single process leaves it as it is.

    Args:
        model: the same on all ranks, on its device.
        precision: mixed precision of Accelerate, `no` or `bf16`.

    Raises:
        ValueError: fp16, whose loss scaler would need the gradients of all ranks.
    """
    if precision == "fp16":
        raise ValueError("mixed_precision=fp16 with distributed_type=FSDP: allowed are bf16 and no")
    if world_size() == 1:
        return
    # Encoders return views; nothing changes them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    mesh = init_device_mesh(model.log_scale.device.type, (world_size(),))
    for part in model.children():
        for module in (*(part.blocks if isinstance(part, Encoder) else ()), part):
            # The outermost modules too: the optimizer and the moving average change the shards.
            fully_shard(module, mesh=mesh, reshard_after_forward=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard_model` has sharded it."""
    return any(True for _ in _sharded_modules(model))


def _sharded_modules(model: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in model.modules() if isinstance(module, FSDPModule))


def prepare(
    accelerator: Accelerator, model: DenseAV, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """accelerator.prepare without DDP for a sharded model, to which Accelerate applies only its precision."""
    if not is_sharded(model):
        return accelerator.prepare(model, optimizer)
    return accelerator.prepare_model(model, evaluation_mode=True), accelerator.prepare_optimizer(optimizer)


@torch.no_grad()
def sync_unsharded_grads(model: DenseAV) -> None:
    """After a backward pass, average the gradients that FSDP does not, and free the weights it left gathered."""
    if not is_sharded(model):
        return
    for module in _sharded_modules(model):
        module.reshard()  # frozen encoders that grad_cache_chunk_size ran again are not freed by a gradient
    # FSDP has averaged the gradients of the shards. These may include averages of earlier passes, which do not change.
    gradients = [parameter.grad for parameter in model.parameters(recurse=False) if parameter.grad is not None]
    if gradients:
        mean = torch.stack(gradients)
        distributed.all_reduce(mean)
        torch._foreach_copy_(gradients, list((mean / world_size()).unbind()))


@contextmanager
def eval_weights(model: DenseAV, ema: ModelEma | None) -> Iterator[None]:
    """Inside this block the model has the weights to evaluate, and each rank may compute alone; every rank enters it.

    Args:
        model: if it is sharded, its weights are gathered on every rank.
        ema: moving average of the weights; None: the model's own weights.
    """
    sharded = list(_sharded_modules(model))
    with ema.swapped_into(model) if ema else nullcontext():
        for module in sharded:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module in sharded:
                module.set_reshard_after_forward(True, recurse=False)
                module.reshard()
