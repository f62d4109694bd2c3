"""What a clip costs in arithmetic, and what a GPU could do at most: together the share of it that training uses (MFU).

    MFU = clips a second x FLOPs of a clip / (GPUs x peak FLOPs a second of one)

FLOPs of a clip: two for each multiplication and addition of the matrix products, convolutions and attention of encoders and projections, forward, and
backward as far as a gradient has to go; counted once by torch on a copy of the very model that has no numbers. Nothing counts twice: what gradient
checkpointing or grad_cache_chunk_size computes again is work, but no progress. Left out is the comparison of pairs, which each clip shares with all others:
0.04 % of the published model's FLOPs at 64 pairs, 2.7 % at 4,096.
"""

from __future__ import annotations

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

# Dense matrix products in bfloat16 with sums in float32, in 1e12 FLOPs a second; float16 where a GPU has no bfloat16 units (V100, T4).
# Source: NVIDIA's data sheets, whose figures for H100, H200 and L40S count zeros that are skipped and are halved here; RTX 4090: Ada architecture paper.
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
    """Seconds that a step's clips would take each, if all GPUs computed at their peak and nothing else had to be done: MFU is this times clips a second.

    Args:
        model: as it trains in this phase.

    Returns:
        None on the CPU and on GPUs of which the peak is not known here.
    """
    device = next(model.parameters()).device
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if peak is None else clip_flops(model) / (world_size * peak)


def least_clip_s_by_phase(
    model: DenseAV, phases: Sequence[str], learnable: frozenset[str], world_size: int
) -> dict[str, float | None]:
    """`ideal_s_per_clip` in each of the phases, before the model is divided among ranks; see freeze_for_phase. All that can learn does so in the end."""
    found = {}
    for phase in phases:
        freeze_for_phase(model, phase, learnable)
        found[phase] = ideal_s_per_clip(model, world_size)
    freeze_for_phase(model, "full", learnable)
    return found


def peak_flops(device_name: str) -> float | None:
    """FLOPs a second that a GPU reaches at most, by its name, such as `NVIDIA H100 80GB HBM3`; None: unknown."""
    return next((1e12 * peak for name, peak in PEAK_TFLOPS.items() if re.search(rf"\b{name}\b", device_name)), None)


def clip_flops(model: DenseAV) -> float:
    """FLOPs of one training clip, forward and backward, by which parameters of the model require a gradient."""
    samples = round(model.inputs.clip_duration_s * model.inputs.sample_rate_hz)
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward}
    )
    with (
        FakeTensorMode(),
        counter,
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):  # fused attention computes its scores twice
        shape = _as_fake_tensors(model)
        frames = torch.zeros(1, 3, model.inputs.image_size_px, model.inputs.image_size_px, dtype=torch.uint8)
        waveform, mask = torch.zeros(1, samples), torch.ones(1, samples, dtype=torch.bool)
        (shape.encode_image(frames).dense.sum() + shape.encode_audio(waveform, mask).dense.sum()).backward()
    return float(counter.get_total_flops())


def _as_fake_tensors(model: DenseAV) -> DenseAV:
    """The model on the CPU, with nothing random in it and nothing computed twice; inside FakeTensorMode, where tensors have shapes but no numbers."""
    empty: dict[int, torch.Tensor] = {
        id(tensor): torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in model.buffers()
    }
    empty |= {
        id(tensor): nn.Parameter(torch.empty(tensor.shape, dtype=tensor.dtype), tensor.requires_grad)
        for tensor in model.parameters()
    }
    shape = copy.deepcopy(model, empty).eval()
    for module in shape.modules():
        if getattr(module, "grad_checkpointing", False):  # timm's; our own audio encoders checkpoint in training only
            module.grad_checkpointing = False
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
    """As much as forward for each of the two gradients. torch's own formula forgets groups: the published model would have a backward pass of 15 % too many."""
    output_mask = rest[2]
    return conv_flop_count(x, w, gradient, transposed) * sum(output_mask[:2])
