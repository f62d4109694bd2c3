"""The Triton kernels that triton_search.py launches. One head at a time; R = P * N queries, P of them apart by N, against Q sets of M candidates.

Everything is contiguous: queries [R C] and candidates [Q M C] of each head. No atomics: every sum has one owner and one order. Written for sm_80 and
sm_90; tests/test_fused_triton.py compiles for both without a GPU and looks for spilled registers. Source: reference 1.2, as fused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

# Under TRITON_INTERPRET=1 (tests) kernels run on a CPU, where a product of bf16 is wrong and a maximum that keeps NaN takes seconds.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
# Candidate sets that one program searches for the queries it has loaded.
SETS = 16
# Candidates of all heads that `sort` has room for.
SORTED = 2**13
# Shapes of `search`: queries and candidates of a tile, warps, stages of loading. All for half precision; fp32 has no registers for more than 64 queries.
SHAPES = [(256, 64, 8, 3), (128, 128, 8, 3), (128, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 2)]
CONFIGS = [
    triton.Config({"BLOCK_R": r, "BLOCK_M": m}, num_warps=warps, num_stages=stages) for r, m, warps, stages in SHAPES
]
CONFIGS = [triton.Config({"BLOCK_R": 16, "BLOCK_M": 16})] if INTERPRETED else CONFIGS


def channels_at_once(features: Float[Tensor, "*n"]) -> int:
    """Channels in one step of a product."""
    return 64 if features.itemsize == 2 else 16


def fits_shared_memory(configs: list[triton.Config], features: Float[Tensor, "*n"]) -> list[triton.Config]:
    """The shapes whose queries and stages of candidates have room together in the shared memory of the features' device."""
    if not features.is_cuda:
        return configs
    room = torch.cuda.get_device_properties(features.device).shared_memory_per_block_optin - 2048
    step = channels_at_once(features)
    size = triton.cdiv(features.shape[2], step) * step * features.itemsize

    def has_room(config: triton.Config) -> bool:
        queries, candidates = config.kwargs["BLOCK_R"], config.kwargs["BLOCK_M"]
        return (queries + config.num_stages * candidates) * size <= room and (features.itemsize == 2 or queries <= 64)

    return [config for config in configs if has_room(config)]


def kernel(function: Callable) -> Callable:
    """A kernel, or a part of one. What checks the shapes of arguments (tests/conftest.py) has wrapped it, and Triton reads names where it was defined."""
    return triton.jit(inspect.unwrap(function))


@kernel
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.autotune(
    CONFIGS,
    key=["M", "C"],
    prune_configs_by={
        "early_config_prune": lambda configs, given, **_: fits_shared_memory(configs, given["query_ptr"])
    },
)
@kernel
def search(
    query_ptr,
    candidate_ptr,
    valid_ptr,
    shift_ptr,
    value_ptr,
    winner_ptr,
    R,
    N,
    Q,
    set_stride,
    shift_p,
    shift_q,
    first_winner,
    M: tl.constexpr,
    C: tl.constexpr,
    SETS: tl.constexpr,
    MERGED: tl.constexpr,
    MASKED: tl.constexpr,
    SHIFTED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """One head: value and winner [Q, R] of R queries, merged with those of the heads before it."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside = rows < R
    channels = tl.arange(0, BLOCK_C)
    queries = ()
    for c in tl.static_range(0, C, BLOCK_C):
        of_rows = rows.to(tl.int64)[:, None] * C + (c + channels)[None, :]
        queries += (
            _exact(tl.load(query_ptr + of_rows, mask=inside[:, None] & (c + channels < C)[None, :], other=0.0)),
        )
    TILES: tl.constexpr = (M + BLOCK_M - 1) // BLOCK_M
    first_set = tl.program_id(1) * SETS
    best = tl.full([BLOCK_R], float("-inf"), tl.float32)
    winner = tl.zeros([BLOCK_R], tl.int32)
    # One loop over all tiles of all sets, so that the next set is being loaded while the last tile of this one is searched.
    for i in tl.range(0, min(SETS, Q - first_set) * TILES):
        q = (first_set + i // TILES).to(tl.int64)
        places = (i % TILES) * BLOCK_M + tl.arange(0, BLOCK_M)
        allowed = places < M
        product = tl.zeros([BLOCK_R, BLOCK_M], tl.float32)
        for c in tl.static_range(0, C, BLOCK_C):
            of_set = (q * M + places)[None, :] * C + (c + channels)[:, None]
            candidates = tl.load(candidate_ptr + of_set, mask=allowed[None, :] & (c + channels < C)[:, None], other=0.0)
            product = tl.dot(queries[c // BLOCK_C], _exact(candidates), product, input_precision="ieee")
        if MASKED:
            allowed = tl.load(valid_ptr + q * M + places, mask=allowed, other=0) != 0
        product = tl.where(allowed[None, :], product, float("-inf"))
        top = tl.max(product, 1) if INTERPRETED else tl.reduce(product, 1, _larger)
        first = tl.min(tl.where(product == top[:, None], places[None, :], M), 1)
        winner = tl.where(top > best, first, winner)
        best = _larger(best, top)
        if i % TILES == TILES - 1:
            at = q * set_stride + rows
            if SHIFTED:
                best += tl.load(shift_ptr + (rows // N).to(tl.int64) * shift_p + q * shift_q, mask=inside, other=0.0)
            if MERGED:
                value = tl.load(value_ptr + at, mask=inside, other=0.0)
                earlier = tl.load(winner_ptr + at, mask=inside, other=0).to(tl.int32)
                better = (best > value) | ((best == value) & (winner < earlier % M))
                winner = tl.where(better, winner + first_winner, earlier)
                best = _larger(best, value)
            tl.store(value_ptr + at, best, mask=inside)
            tl.store(winner_ptr + at, winner.to(winner_ptr.dtype.element_ty), mask=inside)
            best = tl.full([BLOCK_R], float("-inf"), tl.float32)
            winner = tl.zeros([BLOCK_R], tl.int32)


@kernel
def _exact(features):
    return features.to(tl.float32) if INTERPRETED else features


@kernel
def to_queries(
    candidate_ptr,
    winner_ptr,
    grad_ptr,
    out_ptr,
    share_ptr,
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
    """Some queries of one head: the sum over all sets of the candidate that won, where it is of this head."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    head = tl.program_id(1).to(tl.int64)
    channels = tl.arange(0, BLOCK_C)
    share = tl.load(share_ptr + rows, mask=rows < R, other=0.0)
    total = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for i in tl.range(0, Q, num_stages=4):
        q = tl.cast(i, tl.int64)
        place = tl.load(winner_ptr + q * set_stride + rows, mask=rows < R, other=-1).to(tl.int32) - head * M
        flows = (place >= 0) & (place < M)
        weight = tl.load(grad_ptr + (rows // N).to(tl.int64) * grad_p + q * grad_q, mask=flows, other=0.0) * share
        at = ((head * Q + q) * M + place)[:, None] * C + channels[None, :]
        total += weight[:, None] * tl.load(
            candidate_ptr + at, mask=flows[:, None] & (channels < C)[None, :], other=0.0
        ).to(tl.float32)
    at = (head * R + rows)[:, None] * C + channels[None, :]
    tl.store(out_ptr + at, total, mask=(rows < R)[:, None] & (channels < C)[None, :])


@kernel
def sort(winner_ptr, order_ptr, start_ptr, R, set_stride, BINS: tl.constexpr, POWER: tl.constexpr, BLOCK: tl.constexpr):
    """One set: its queries in the order of their winners (a counting sort; of equal winners the first query first), and where each winner's begin."""
    q = tl.program_id(0).to(tl.int64)
    slots, bins = tl.arange(0, BLOCK), tl.arange(0, POWER)
    count = tl.zeros([POWER], tl.int32)
    for first in range(0, R, BLOCK):
        key = tl.load(winner_ptr + q * set_stride + first + slots, mask=first + slots < R, other=-1).to(tl.int32)
        count += tl.histogram(key, POWER, mask=key >= 0)
    begin = tl.cumsum(count) - count
    tl.store(start_ptr + q * (BINS + 1) + bins, begin, mask=bins <= BINS)
    for first in range(0, R, BLOCK):
        key = tl.load(winner_ptr + q * set_stride + first + slots, mask=first + slots < R, other=-1).to(tl.int32)
        earlier = (key[:, None] == key[None, :]) & (slots[:, None] > slots[None, :])
        at = tl.gather(begin, tl.maximum(key, 0), 0) + tl.sum(earlier.to(tl.int32), 1)
        tl.store(order_ptr + q * R + at, first + slots, mask=key >= 0)
        begin += tl.histogram(key, POWER, mask=key >= 0)


@kernel
def to_candidates(
    query_ptr,
    order_ptr,
    start_ptr,
    grad_ptr,
    out_ptr,
    share_ptr,
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
    """One candidate: the sum of the queries that it won."""
    q, candidate = (tl.program_id(0) // BINS).to(tl.int64), tl.program_id(0) % BINS
    head = (candidate // M).to(tl.int64)
    channels = tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    begin, end = tl.load(start_ptr + q * (BINS + 1) + candidate), tl.load(start_ptr + q * (BINS + 1) + candidate + 1)
    for first in tl.range(begin, end, BLOCK_R, num_stages=3):
        inside = first + tl.arange(0, BLOCK_R) < end
        rows = tl.load(order_ptr + q * R + first + tl.arange(0, BLOCK_R), mask=inside, other=0)
        weight = tl.load(grad_ptr + (rows // N).to(tl.int64) * grad_p + q * grad_q, mask=inside, other=0.0) * tl.load(
            share_ptr + rows
        )
        at = (head * R + rows)[:, None] * C + channels[None, :]
        total += weight[:, None] * tl.load(
            query_ptr + at, mask=inside[:, None] & (channels < C)[None, :], other=0.0
        ).to(tl.float32)
    at = head * head_stride + (q * M + candidate % M) * C
    tl.store(out_ptr + at + channels, tl.sum(total, 0), mask=channels < C)
