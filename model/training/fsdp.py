"""FSDP: weights, gradients and moments divided among the ranks, each of which holds its part of every tensor and gathers the layers it computes.

torch's FSDP2 divides the encoders layer by layer, and the projections. It takes no parameter without dimensions: scale and bias of the logits stay whole on
every rank. What works element by element (optimiser, mean weights) works on each rank's own part; a norm is that of the whole tensor, and files hold whole
tensors, so they are the same on any number of processes. A model that is not divided passes through every function here as it is.
"""

from __future__ import annotations

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
from model.training.ema import ModelEma

# What timm, torchaudio and our tiny encoders call the list of their layers.
LAYER_LISTS = ("blocks", "layers")


def shard_model(model: DenseAV, precision: str) -> None:
    """Divide a model that all ranks hold alike, on its device, among them. One process alone keeps all of it.

    Args:
        precision: of Accelerate: `no` or `bf16`.

    Raises:
        ValueError: fp16, whose loss scaler would have to see the gradients of all ranks.
    """
    if precision == "fp16":
        raise ValueError("mixed_precision=fp16 with distributed_type=FSDP: allowed are bf16 and no")
    if world_size() == 1:
        return
    # Features that an encoder returns are views; nobody changes them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    mesh = init_device_mesh(model.log_scale.device.type, (world_size(),))
    for part in model.children():
        for module in (*layers(part), part):
            # Also the outermost modules free what they gathered, for the optimiser and the mean weights change what each rank holds.
            fully_shard(module, mesh=mesh, reshard_after_forward=True)


def layers(part: nn.Module) -> Iterator[nn.Module]:
    """The layers of an encoder, each of which is gathered by itself; none where it has no list of them."""
    for name, module in part.named_modules():
        if name.rpartition(".")[2] in LAYER_LISTS:
            yield from (layer for layer in module.children() if any(True for _ in layer.parameters()))


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard_model` has divided it."""
    return any(True for _ in _divided(model))


def _divided(model: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in model.modules() if isinstance(module, FSDPModule))


def prepare(
    accelerator: Accelerator, model: DenseAV, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """As accelerator.prepare, which would also wrap a divided model in DDP; of such a one only the precision is Accelerate's."""
    if not is_sharded(model):
        return accelerator.prepare(model, optimizer)
    return accelerator.prepare_model(model, evaluation_mode=True), accelerator.prepare_optimizer(optimizer)


@torch.no_grad()
def sync_unsharded_grads(model: DenseAV) -> None:
    """After each backward pass of a divided model, before anything else looks at weights or gradients."""
    if not is_sharded(model):
        return
    for module in _divided(model):
        module.reshard()  # grad_cache_chunk_size runs frozen encoders again, in which no gradient comes by and frees them
    # torch has averaged the gradients of what is divided. Those here may be sums of earlier passes, of which the mean is taken again and stays.
    gradients = [parameter.grad for parameter in model.parameters(recurse=False) if parameter.grad is not None]
    if gradients:
        mean = torch.stack(gradients)
        distributed.all_reduce(mean)
        torch._foreach_copy_(gradients, list((mean / world_size()).unbind()))


class EvalWeights:
    """In the place of a ModelEma: inside `in_place`, every rank has all of a divided model, and may compute alone.

    Args:
        average: of the weights, which are exchanged first; None: there is none.
    """

    def __init__(self, ema: ModelEma | None) -> None:
        self.ema = ema

    @contextmanager
    def swapped_into(self, model: DenseAV) -> Iterator[None]:
        """Gather all weights, and free them again; every rank has to enter."""
        divided = list(_divided(model))
        with self.ema.swapped_into(model) if self.ema else nullcontext():
            for module in divided:
                module.set_reshard_after_forward(False, recurse=False)
                module.unshard()
            try:
                yield
            finally:
                for module in divided:
                    module.set_reshard_after_forward(True, recurse=False)
                    module.reshard()
