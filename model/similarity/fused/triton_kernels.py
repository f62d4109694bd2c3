"""Triton kernels that triton_search.py launches, one head at a time: R = P * N queries against Q sets of M candidates.

Queries [R C] and candidates [Q M C] of each head are contiguous. No atomics: each sum is computed by one program in a
fixed order. Written for sm_80 and sm_90; tests/model/similarity/test_fused_triton.py compiles for both without a GPU
and checks for spilled registers. Source: reference 1.2; see the package for the algorithm.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from model.triton_jit import kernel

# Under TRITON_INTERPRET=1 (tests) kernels run on a CPU, where bf16 products are wrong and a NaN-propagating maximum
# takes seconds.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
# Candidate sets that one program searches for its queries.
SETS = 16
# Upper limit of the candidates of all heads of a group in `sort`.
MAX_SORT_BINS = 2**13
# Shapes of `search`: queries and candidates of a tile, warps, pipeline stages. All serve half precision; in fp32
# registers suffice for 64 queries at most.
SHAPES = [(256, 64, 8, 3), (128, 128, 8, 3), (128, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 2)]
CONFIGS = [
    triton.Config({"BLOCK_R": r, "BLOCK_M": m}, num_warps=warps, num_stages=stages) for r, m, warps, stages in SHAPES
]
CONFIGS = [triton.Config({"BLOCK_R": 16, "BLOCK_M": 16})] if INTERPRETED else CONFIGS


def block_channels(features: Float[Tensor, "*n"]) -> int:
    """Channels of one block of a product."""
    return 64 if features.itemsize == 2 else 16


def fitting_configs(configs: list[triton.Config], features: Float[Tensor, "*n"]) -> list[triton.Config]:
    """The shapes whose queries and staged candidates together fit the shared memory of the device."""
    if not features.is_cuda:
        return configs
    properties: Any = torch.cuda.get_device_properties(features.device)  # torch's type lacks this attribute
    room = properties.shared_memory_per_block_optin - 2048
    step = block_channels(features)
    size = triton.cdiv(features.shape[2], step) * step * features.itemsize

    def fits(config: triton.Config) -> bool:
        queries, candidates = config.kwargs["BLOCK_R"], config.kwargs["BLOCK_M"]
        return (queries + config.num_stages * candidates) * size <= room and (features.itemsize == 2 or queries <= 64)

    return [config for config in configs if fits(config)]


@kernel
@no_type_check
def _nan_maximum(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.autotune(
    CONFIGS,
    key=["M", "C"],
    prune_configs_by={"early_config_prune": lambda configs, given, **_: fitting_configs(configs, given["query_ptr"])},
)
@kernel
@no_type_check
def search(
    query_ptr,
    candidate_ptr,
    valid_ptr,
    bias_ptr,
    value_ptr,
    argmax_ptr,
    R,
    N,
    Q,
    set_stride,
    bias_p,
    bias_q,
    first_index,
    M: tl.constexpr,
    C: tl.constexpr,
    SETS: tl.constexpr,
    MERGED: tl.constexpr,
    MASKED: tl.constexpr,
    BIASED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Value and arg-max [Q, R] of R queries for one head, merged with those of the previous heads of its group."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside = rows < R
    channels = tl.arange(0, BLOCK_C)
    queries = ()
    for c in tl.static_range(0, C, BLOCK_C):
        of_rows = rows.to(tl.int64)[:, None] * C + (c + channels)[None, :]
        queries += (
            _maybe_upcast(tl.load(query_ptr + of_rows, mask=inside[:, None] & (c + channels < C)[None, :], other=0.0)),
        )
    TILES: tl.constexpr = (M + BLOCK_M - 1) // BLOCK_M
    first_set = tl.program_id(1) * SETS
    best = tl.full([BLOCK_R], float("-inf"), tl.float32)
    argmax = tl.zeros([BLOCK_R], tl.int32)
    # One loop over all tiles of all sets, so that the next set loads while the last tile of this one is searched.
    for i in tl.range(0, min(SETS, Q - first_set) * TILES):
        q = (first_set + i // TILES).to(tl.int64)
        indices = (i % TILES) * BLOCK_M + tl.arange(0, BLOCK_M)
        allowed = indices < M
        product = tl.zeros([BLOCK_R, BLOCK_M], tl.float32)
        for c in tl.static_range(0, C, BLOCK_C):
            of_set = (q * M + indices)[None, :] * C + (c + channels)[:, None]
            candidates = tl.load(candidate_ptr + of_set, mask=allowed[None, :] & (c + channels < C)[:, None], other=0.0)
            product = tl.dot(queries[c // BLOCK_C], _maybe_upcast(candidates), product, input_precision="ieee")
        if MASKED:
            allowed = tl.load(valid_ptr + q * M + indices, mask=allowed, other=0) != 0
        product = tl.where(allowed[None, :], product, float("-inf"))
        top = tl.max(product, 1) if INTERPRETED else tl.reduce(product, 1, _nan_maximum)
        first = tl.min(tl.where(product == top[:, None], indices[None, :], M), 1)
        argmax = tl.where(top > best, first, argmax)
        best = _nan_maximum(best, top)
        if i % TILES == TILES - 1:
            at = q * set_stride + rows
            if BIASED:
                best += tl.load(bias_ptr + (rows // N).to(tl.int64) * bias_p + q * bias_q, mask=inside, other=0.0)
            if MERGED:
                value = tl.load(value_ptr + at, mask=inside, other=0.0)
                earlier = tl.load(argmax_ptr + at, mask=inside, other=0).to(tl.int32)
                better = (best > value) | ((best == value) & (argmax < earlier % M))
                argmax = tl.where(better, argmax + first_index, earlier)
                best = _nan_maximum(best, value)
            tl.store(value_ptr + at, best, mask=inside)
            tl.store(argmax_ptr + at, argmax.to(argmax_ptr.dtype.element_ty), mask=inside)
            best = tl.full([BLOCK_R], float("-inf"), tl.float32)
            argmax = tl.zeros([BLOCK_R], tl.int32)


@kernel
@no_type_check
def _maybe_upcast(features):
    return features.to(tl.float32) if INTERPRETED else features


@kernel
@no_type_check
def query_gradients(
    candidate_ptr,
    argmax_ptr,
    grad_ptr,
    out_ptr,
    weight_ptr,
    R,
    N,
    grad_p,
    grad_q,
    Q,
    set_stride,
    M: tl.constexpr,
    C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradients of some queries of one head: sum over all sets of the arg-max candidates of this head."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    head = tl.program_id(1).to(tl.int64)
    channels = tl.arange(0, BLOCK_C)
    weight_n = tl.load(weight_ptr + rows, mask=rows < R, other=0.0)
    total = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for i in tl.range(0, Q, num_stages=4):
        q = tl.cast(i, tl.int64)
        index = tl.load(argmax_ptr + q * set_stride + rows, mask=rows < R, other=-1).to(tl.int32) - head * M
        active = (index >= 0) & (index < M)
        weight = tl.load(grad_ptr + (rows // N).to(tl.int64) * grad_p + q * grad_q, mask=active, other=0.0) * weight_n
        at = ((head * Q + q) * M + index)[:, None] * C + channels[None, :]
        total += weight[:, None] * tl.load(
            candidate_ptr + at, mask=active[:, None] & (channels < C)[None, :], other=0.0
        ).to(tl.float32)
    at = (head * R + rows)[:, None] * C + channels[None, :]
    tl.store(out_ptr + at, total, mask=(rows < R)[:, None] & (channels < C)[None, :])


@kernel
@no_type_check
def sort(argmax_ptr, order_ptr, start_ptr, R, set_stride, BINS: tl.constexpr, POWER: tl.constexpr, BLOCK: tl.constexpr):
    """Sort the queries of one set by arg-max (a stable counting sort); also the position where each arg-max begins."""
    q = tl.program_id(0).to(tl.int64)
    slots, bins = tl.arange(0, BLOCK), tl.arange(0, POWER)
    count = tl.zeros([POWER], tl.int32)
    for first in range(0, R, BLOCK):
        argmax = tl.load(argmax_ptr + q * set_stride + first + slots, mask=first + slots < R, other=-1).to(tl.int32)
        count += tl.histogram(argmax, POWER, mask=argmax >= 0)
    begin = tl.cumsum(count) - count
    tl.store(start_ptr + q * (BINS + 1) + bins, begin, mask=bins <= BINS)
    for first in range(0, R, BLOCK):
        argmax = tl.load(argmax_ptr + q * set_stride + first + slots, mask=first + slots < R, other=-1).to(tl.int32)
        earlier = (argmax[:, None] == argmax[None, :]) & (slots[:, None] > slots[None, :])
        at = tl.gather(begin, tl.maximum(argmax, 0), 0) + tl.sum(earlier.to(tl.int32), 1)
        tl.store(order_ptr + q * R + at, first + slots, mask=argmax >= 0)
        begin += tl.histogram(argmax, POWER, mask=argmax >= 0)


@kernel
@no_type_check
def candidate_gradients(
    query_ptr,
    order_ptr,
    start_ptr,
    grad_ptr,
    out_ptr,
    weight_ptr,
    R,
    N,
    grad_p,
    grad_q,
    head_stride,
    M: tl.constexpr,
    C: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradient of one candidate: sum of the queries whose arg-max it is."""
    q, candidate = (tl.program_id(0) // BINS).to(tl.int64), tl.program_id(0) % BINS
    head = (candidate // M).to(tl.int64)
    channels = tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    begin, end = tl.load(start_ptr + q * (BINS + 1) + candidate), tl.load(start_ptr + q * (BINS + 1) + candidate + 1)
    for first in tl.range(begin, end, BLOCK_R, num_stages=3):
        inside = first + tl.arange(0, BLOCK_R) < end
        rows = tl.load(order_ptr + q * R + first + tl.arange(0, BLOCK_R), mask=inside, other=0)
        weight = tl.load(grad_ptr + (rows // N).to(tl.int64) * grad_p + q * grad_q, mask=inside, other=0.0) * tl.load(
            weight_ptr + rows
        )
        at = (head * R + rows)[:, None] * C + channels[None, :]
        total += weight[:, None] * tl.load(
            query_ptr + at, mask=inside[:, None] & (channels < C)[None, :], other=0.0
        ).to(tl.float32)
    at = head * head_stride + (q * M + candidate % M) * C
    tl.store(out_ptr + at + channels, tl.sum(total, 0), mask=channels < C)
