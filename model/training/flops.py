"""FLOPs of a training clip, and model FLOPs utilization (MFU): the fraction of the GPUs' peak that training uses.

    MFU = clips per second x FLOPs per clip / (GPUs x peak FLOPs per second of one)

FLOPs of a clip: two per multiply-add of the matrix products, convolutions and attention of encoders and projections,
forward, and backward as far as gradients flow; counted once by torch on a copy of the model without data. Recomputation
by gradient checkpointing or grad_cache_chunk_size does not count. Not included is the comparison of pairs, which each
clip shares with all others: 0.04 % of the published model's FLOPs at 64 pairs, 2.7 % at 4,096.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from model.denseav import DenseAV
from model.training.optim import freeze_for_phase

# GPU name -> peak TFLOPS of dense bfloat16 matrix products with float32 accumulation; float16 if the GPU has no
# bfloat16 units (V100, T4). Source: NVIDIA's data sheets, whose figures for H100, H200 and L40S assume sparsity and are
# halved here; RTX 4090: Ada architecture paper.
PEAK_TFLOPS = {
    r"H[12]00 NVL": 835.5,
    r"H100 PCIe": 756.5,
    r"H[12]00": 989.5,
    r"A100": 312.0,
    r"L40S": 362.0,
    r"V100-PCIE": 112.0,
    r"V100": 125.0,
    r"T4": 65.0,
    r"RTX 4090": 165.2,
}


def ideal_s_per_clip(model: DenseAV, world_size: int) -> float | None:
    """Seconds per clip if all GPUs computed at their peak; MFU is this times clips per second.

    Args:
        model: with the parameters that learn in this phase requiring a gradient.
        world_size: number of GPUs.

    Returns:
        None on the CPU and on GPUs that are not in PEAK_TFLOPS.
    """
    device = next(model.parameters()).device
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if peak is None else clip_flops(model) / (world_size * peak)


def ideal_s_per_clip_by_phase(
    model: DenseAV, phases: Sequence[str], learnable: frozenset[str], world_size: int
) -> dict[str, float | None]:
    """`ideal_s_per_clip` of each phase (see freeze_for_phase), of an unsharded model that is left in phase `full`."""
    seconds = {}
    for phase in phases:
        freeze_for_phase(model, phase, learnable)
        seconds[phase] = ideal_s_per_clip(model, world_size)
    freeze_for_phase(model, "full", learnable)
    return seconds


def peak_flops(device_name: str) -> float | None:
    """Peak FLOPs per second of a GPU, by its name, such as `NVIDIA H100 80GB HBM3`; None if unknown."""
    return next((1e12 * peak for name, peak in PEAK_TFLOPS.items() if re.search(rf"\b{name}\b", device_name)), None)


def clip_flops(model: DenseAV) -> float:
    """FLOPs of one training clip, forward and backward to the parameters that require a gradient."""
    side_px, samples = model.inputs.image_size_px, model.inputs.samples
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward}
    )
    # Fused attention computes its scores twice.
    with FakeTensorMode(), counter, torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        shape = _as_fake_tensors(model)
        image = shape.encode_image(torch.zeros(1, 3, side_px, side_px, dtype=torch.uint8))
        audio = shape.encode_audio(torch.zeros(1, samples), torch.ones(1, samples, dtype=torch.bool))
        (image.dense.sum() + audio.dense.sum()).backward()
    return float(counter.get_total_flops())


def _as_fake_tensors(model: DenseAV) -> DenseAV:
    """A copy of the model without data, on the CPU, in evaluation mode; to be called inside FakeTensorMode."""
    empty: dict[int, torch.Tensor] = {
        id(tensor): torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in model.buffers()
    }
    empty |= {
        id(tensor): nn.Parameter(torch.empty(tensor.shape, dtype=tensor.dtype), tensor.requires_grad)
        for tensor in model.parameters()
    }
    shape = copy.deepcopy(model, empty).eval()
    for module in shape.modules():
        # timm's; our own audio encoders checkpoint in training only
        if disable := getattr(module, "set_grad_checkpointing", None):
            disable(False)
    return shape


def _convolution_backward(
    gradient: Any,
    x: Any,
    w: Any,
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    *rest: Any,
    **_keywords: Any,
) -> int:
    """As many FLOPs as forward for each of the two gradients.

    torch's formula ignores groups: it overestimates the published model's backward pass by 15 %.
    """
    output_mask = rest[2]
    return conv_flop_count(x, w, gradient, transposed) * sum(output_mask[:2])
