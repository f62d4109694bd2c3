"""`misa` and `mima` where no gradient is wanted (retrieval): only the maxima, no winners, in tiles that never leave the cache.

A tile is the product of one picture's cells with some of all audio steps for one head, and its maximum over cells is taken before the next is made. Each
thread has pictures of its own: threads that share a tile meet at the end of each, and beside other busy processes wait there (2 threads, 2 cores, load 8:
5 times as long). What is left is the product: 200 x 200 pairs of 28 x 28 cells, 56 steps and 2 heads of 192 channels are 1.35 TFLOP, 13.2 s of one core
with AVX-512 (102 GFLOP/s), and the maxima 0.4 s; the plain form takes 22.7 s, 14.0 of them for its product, 1.6 for its maxima, the rest for the
memory of its 14 GB. So what computes all products in float32 is at most 1.7 times faster; products in int8 with a guaranteed bound, then a second look at
the 2.2 groups of cells for each step that could hold its maximum, took as long (13.0 s). Source: reference 1.2, as fused.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model.dtypes import upcast_half
from model.similarity.dense import MASKED_OUT
from model.similarity.fused.mean import mean_weight

# Numbers in a tile: 1 MB, what a core's second-level cache holds.
TILE_NUMBERS = 2**18


def is_applicable(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C M"],
    pair_bias: Float[Tensor, "A V K"] | None,
    aggregation: str,
) -> bool:
    """Whether this is the way to score these: on a CPU, without gradient, and no maximum over steps for each cell."""
    gradient = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (audio, image, pair_bias)
    )
    return not gradient and audio.device.type == "cpu" and aggregation in ("misa", "mima")


def scores(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C M"],
    mask: Bool[Tensor, "A T"],
    pair_bias: Float[Tensor, "A V K"] | None,
    aggregation: str,
    heads_per_group: int,
    nonneg: bool,
) -> Float[Tensor, "A V G"]:
    """Score of every audio against every image for each group of heads. Args as `tiled.search`."""
    (A, K, C, T), V = audio.shape, len(image)
    steps = upcast_half(audio.permute(1, 0, 3, 2).reshape(K, A * T, C))
    weight, found, threads = (
        mean_weight(mask, steps.dtype),
        steps.new_empty(V, K // heads_per_group, A),
        torch.get_num_threads(),
    )

    @torch.inference_mode()
    def score(v: int) -> None:
        similarity = _largest(steps, upcast_half(image[v])).view(K, A, T)
        similarity = similarity if pair_bias is None else similarity + pair_bias[:, v].T[..., None]
        similarity = similarity.unflatten(0, (-1, heads_per_group)).amax(dim=1)
        similarity = similarity.clamp(min=0) if nonneg else similarity
        found[v] = (
            (similarity - MASKED_OUT * ~mask).amax(dim=-1)
            if aggregation == "mima"
            else (similarity * weight).sum(dim=-1)
        )

    with ThreadPoolExecutor(
        threads, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:  # of the pool's threads, not of this one
        deque(pool.map(score, range(V)), maxlen=0)
    return found.permute(2, 0, 1)


def _largest(steps: Float[Tensor, "K N C"], cells: Float[Tensor, "K C M"]) -> Float[Tensor, "K N"]:
    """For each step its largest similarity with any cell, head by head."""
    (K, N, _), M = steps.shape, cells.shape[2]
    rows = max(1, TILE_NUMBERS // M)
    best, tile = steps.new_empty(K, N), steps.new_empty(min(rows, N), M)
    for k in range(K):
        for some in (slice(row, min(row + rows, N)) for row in range(0, N, rows)):
            part = tile[: some.stop - some.start]
            torch.mm(steps[k, some], cells[k], out=part)
            torch.amax(part, dim=1, out=best[k, some])
    return best
