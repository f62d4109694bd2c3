"""`misa` and `mima` without gradients on a CPU (retrieval): maxima only, no arg-max, in tiles that stay in the cache.

A tile is the product of the cells of one image with some of all audio steps for one head, and its maximum over cells is
taken before the next tile is computed. Each thread scores images of its own, see share_work.py.

The product dominates: 200 x 200 pairs of 28 x 28 cells, 56 steps and 2 heads of 192 channels are 1.35 TFLOP, 13.2 s of
one core with AVX-512 (102 GFLOP/s), and the maxima 0.4 s; dense.py takes 22.7 s, of which 14.0 for its product, 1.6 for
its maxima and the rest for the memory of its 14 GB. So at most a 1.7x speed-up is possible in float32; products in int8
with a guaranteed bound, then a second look at the 2.2 groups of cells for each step that could hold its maximum, took
as long (13.0 s). Source: reference 1.2; see the package for the algorithm.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model.dtypes import upcast_half
from model.similarity.dense import MASKED_OUT
from model.similarity.fused.mean import mean_weight
from model.similarity.fused.share_work import share_work

# Numbers in a tile: 1 MB, the size of the second-level cache of a core.
TILE_NUMBERS = 2**18


def is_applicable(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C M"],
    pair_bias: Float[Tensor, "A V K"] | None,
    aggregation: str,
) -> bool:
    """Whether this path applies: on a CPU, without gradient, and without a maximum over steps for each cell."""
    needs_grad = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (audio, image, pair_bias)
    )
    return not needs_grad and audio.device.type == "cpu" and aggregation in ("misa", "mima")


def scores(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C M"],
    mask: Bool[Tensor, "A T"],
    pair_bias: Float[Tensor, "A V K"] | None,
    aggregation: str,
    heads_per_group: int,
    nonneg: bool,
) -> Float[Tensor, "A V G"]:
    """Score of every audio against every image for each group of heads. Args as tiled.search."""
    (A, K, C, T), V = audio.shape, len(image)
    steps = upcast_half(audio.permute(1, 0, 3, 2).reshape(K, A * T, C))
    weight = mean_weight(mask, steps.dtype)
    out = steps.new_empty(V, K // heads_per_group, A)

    def run(images: Iterator[int]) -> None:
        for v in images:
            similarity = _max_over_cells(steps, upcast_half(image[v])).view(K, A, T)
            similarity = similarity if pair_bias is None else similarity + pair_bias[:, v].T[..., None]
            similarity = similarity.unflatten(0, (-1, heads_per_group)).amax(dim=1)
            similarity = similarity.clamp(min=0) if nonneg else similarity
            if aggregation == "mima":
                out[v] = (similarity - MASKED_OUT * ~mask).amax(dim=-1)
            else:
                out[v] = (similarity * weight).sum(dim=-1)

    share_work(run, range(V), audio.device)
    return out.permute(2, 0, 1)


def _max_over_cells(steps: Float[Tensor, "K N C"], cells: Float[Tensor, "K C M"]) -> Float[Tensor, "K N"]:
    """Largest similarity of each step with any cell, per head."""
    (K, N, _), M = steps.shape, cells.shape[2]
    rows = max(1, TILE_NUMBERS // M)
    best, tile = steps.new_empty(K, N), steps.new_empty(min(rows, N), M)
    for k in range(K):
        for first in range(0, N, rows):
            chunk = slice(first, min(first + rows, N))
            part = tile[: chunk.stop - first]
            torch.mm(steps[k, chunk], cells[k], out=part)
            torch.amax(part, dim=1, out=best[k, chunk])
    return best
