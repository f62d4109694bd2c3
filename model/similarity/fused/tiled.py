"""Maxima over candidates for all pairs, and their gradients, in plain torch: any device or dtype, bitwise reproducible.

A tile is the product of a few images with all audios for one head. On a CPU each thread takes whole tiles
(share_work.py), and results are the same on any number of threads. Half precision is computed in fp32. triton_search.py
has the same two functions as GPU kernels. Source: reference 1.2; see the package for the algorithm.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from model.dtypes import upcast_half
from model.similarity.fused.share_work import share_work

# Numbers in all tiles that a thread holds at once. 2 MB on a CPU, or one image: tiles stay in the cache of a core.
TILE_NUMBERS = {"cpu": 2**19, "cuda": 2**27}
# Gradient edges (arg-max to arg-max) processed at once in the backward pass; sorting takes about 100 bytes for each.
EDGES_PER_CHUNK = {"cpu": 2**15, "cuda": 2**23}


class MaxResult(NamedTuple):
    """For each of the N vectors of p, the largest similarity with any of the M vectors of q, and its arg-max.

    The arg-max is (head within its group) * M + (index of the vector of q).
    """

    value: Float[Tensor, "Q G P N"]
    argmax: Int[Tensor, "Q G P N"]


class ArgmaxRouting(NamedTuple):
    """What the backward pass needs of one direction.

    Attributes:
        argmax: as in MaxResult, -1 where no gradient flows.
        weight: weight of each vector of p in its score.
    """

    argmax: Int[Tensor, "Q G P N"]
    weight: Float[Tensor, "P N"]


def search(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C M"],
    mask: Bool[Tensor, "A T"],
    pair_bias: Float[Tensor, "A V K"] | None,
    heads_per_group: int,
    bidirectional: bool,
    consume: Callable[[slice, MaxResult, MaxResult | None], None],
) -> None:
    """Maximum over cells for each step and, if `bidirectional`, over steps for each cell, a few images at a time.

    Args:
        mask: True at steps that may be the arg-max of a cell; at least one for each audio.
        pair_bias: added to all similarities of a pair and head.
        heads_per_group: heads that share one maximum, 1 or K, so that there are G = K / heads_per_group groups.
        consume: called with some images; the maxima of their steps (Q = images, P = audios, N = T, M = cells); those
            of cells (Q = audios, P = images, N = cells, M = T) or None. On a CPU several threads call it.
    """
    (A, K, C, T), (V, _, _, M) = audio.shape, image.shape
    steps = step_columns(audio)
    images_per_chunk = chunk_size(TILE_NUMBERS, audio, (1 + bidirectional) * A * T * M)

    def run(parts: Iterator[slice]) -> None:
        buffers = steps.new_empty(1 + bidirectional, min(images_per_chunk, V) * M, T * A)
        for images in parts:
            cells = image[images].permute(1, 0, 3, 2).reshape(K, -1, C).to(steps.dtype)
            step_maxima, cell_maxima = [], []
            for k in range(K):
                tile, scratch = (buffers[n, : cells.shape[1]].view(-1, M, T, A) for n in (0, -1))
                torch.mm(cells[k], steps[k], out=tile.view(-1, T * A))
                step_maxima.append([part.transpose(1, 2) for part in _first_maximum(tile, 1, scratch)])
                if bidirectional:
                    if not mask.all():
                        tile.masked_fill_(~mask.T, float("-inf"))
                    cell_maxima.append([part.permute(2, 0, 1) for part in _first_maximum(tile, 2, scratch)])
            bias = None if pair_bias is None else pair_bias[:, images]
            step_max = _max_over_heads(step_maxima, None if bias is None else bias.transpose(0, 1), heads_per_group, M)
            consume(images, step_max, _max_over_heads(cell_maxima, bias, heads_per_group, T) if bidirectional else None)

    share_work(run, list(chunks(V, images_per_chunk)), audio.device)


def step_columns(audio: Float[Tensor, "A K C T"]) -> Float[Tensor, "K C T*A"]:
    """All steps of all audios as columns: the right factor of the product of a tile."""
    return upcast_half(audio.permute(1, 2, 3, 0).flatten(2))


def _first_maximum(
    tile: Float[Tensor, "V M T A"], dim: int, scratch: Float[Tensor, "V M T A"]
) -> tuple[Tensor, Tensor]:
    """As tile.max(dim), whose arg-max takes three times as long on a CPU (190 against 40 to 75 ms at B = 64, one core).

    Overwrites `scratch`: entries equal to the maximum are weighted M, M - 1, ... 1, so the largest weight is at the
    first of them. With NaN the index is arbitrary.
    """
    size = tile.shape[dim]
    value = tile.amax(dim, keepdim=True)
    weight = torch.arange(size, 0, -1, dtype=tile.dtype, device=tile.device).view(-1, *[1] * (tile.ndim - 1 - dim))
    index = size - torch.eq(tile, value, out=scratch).mul_(weight).amax(dim)
    return value.squeeze(dim), index.clamp_(max=size - 1).to(torch.int32)


def _max_over_heads(
    maxima: list[list[Tensor]], pair_bias: Float[Tensor, "Q P K"] | None, heads_per_group: int, candidates: int
) -> MaxResult:
    """Maximum over the heads of each group, from value and index [Q P N] of each head.

    Of equal values the lowest index wins, and of equal indices the first head.
    """
    values: list[Tensor] = []
    argmaxes: list[Tensor] = []
    for k, (value, index) in enumerate(maxima):
        value = value if pair_bias is None else value + pair_bias[:, :, k, None]
        if k % heads_per_group == 0:
            values.append(value)
            argmaxes.append(index)
        else:
            better = (value > values[-1]) | ((value == values[-1]) & (index < argmaxes[-1] % candidates))
            argmaxes[-1] = torch.where(better, index + k % heads_per_group * candidates, argmaxes[-1])
            values[-1] = torch.maximum(value, values[-1])
    return MaxResult(torch.stack(values, dim=1), torch.stack(argmaxes, dim=1))


def gradients(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C M"],
    grad: Float[Tensor, "A V G"],
    step_routing: ArgmaxRouting,
    cell_routing: ArgmaxRouting | None,
    heads_per_group: int,
) -> tuple[Float[Tensor, "A K C T"], Float[Tensor, "V K C M"]]:
    """Gradients of both features: the gradient of a score flows to its arg-max positions only."""
    (A, K, C, T), (V, _, _, M) = audio.shape, image.shape
    grad_audio, grad_image = grad.new_empty(A, K, T, C), grad.new_empty(V, K, M, C)
    sides = (
        _Side(grad_audio, grad, step_routing, cell_routing),
        _Side(grad_image, grad.transpose(0, 1), cell_routing, step_routing),
    )
    parts = [(side, part) for side in sides for part in side.parts(heads_per_group)]
    for k in range(K):
        steps, cells = (rows[:, k].transpose(1, 2).reshape(-1, C).to(grad.dtype) for rows in (audio, image))

        def run(work: Iterator[tuple[_Side, slice]], k: int = k, steps: Tensor = steps, cells: Tensor = cells) -> None:
            for side, part in work:
                side.compute(part, k, heads_per_group, cells if side is sides[0] else steps)

        share_work(run, parts, audio.device)
    return grad_audio.transpose(2, 3), grad_image.transpose(2, 3)


class _Side(NamedTuple):
    """Gradients of the vectors of one modality, the sides of P items; each has Q counterparts of M vectors.

    Attributes:
        out: what `compute` writes.
        grad: of the scores.
        own: routing of maxima for each vector of this side; None if there are none.
        received: routing of maxima for each vector of the other side.
    """

    out: Float[Tensor, "P K N C"]
    grad: Float[Tensor, "P Q G"]
    own: ArgmaxRouting | None
    received: ArgmaxRouting | None

    def parts(self, heads_per_group: int) -> Iterator[slice]:
        """Items that are computed at once."""
        routings = (self.own, self.received)
        edges = sum(routing.argmax[:, 0].numel() for routing in routings if routing is not None)
        edges_per_item = edges // heads_per_group // len(self.out)
        return chunks(len(self.out), chunk_size(EDGES_PER_CHUNK, self.out, edges_per_item))

    def compute(self, items: slice, k: int, heads_per_group: int, others: Float[Tensor, "QM C"]) -> None:
        """Write the gradients of some items and one head, from the vectors of the other side."""
        (g, j), grad, (_, _, N, C) = divmod(k, heads_per_group), self.grad[items], self.out.shape
        M, edges = len(others) // grad.shape[1], []
        if self.own is not None:
            argmax, weight = self.own.argmax[:, g, items], self.own.weight[items]
            edges.append(_gradient_edges(argmax, weight, grad[:, :, g].T, j * M, M))
        if self.received is not None:
            argmax, weight = self.received.argmax[items, g], self.received.weight
            source, target, weight = _gradient_edges(argmax, weight, grad[:, :, g], j * N, N)
            edges.append((target, source, weight))
        target, source, weight = (torch.cat(parts) for parts in zip(*edges, strict=True))
        self.out[items, k] = _weighted_sums(weight, others, source, target, len(grad) * N).view(-1, N, C)


def _gradient_edges(
    argmax: Int[Tensor, "Q P N"], weight: Float[Tensor, "P N"], grad: Float[Tensor, "Q P"], first: int, candidates: int
) -> tuple[Int[Tensor, "E"], Int[Tensor, "E"], Float[Tensor, "E"]]:
    """All pairs of vectors of one head between which gradient flows: index in [P N], index in [Q M], and weight.

    Args:
        first: of the arg-max values of this head, which has `candidates` of them.
    """
    flat = argmax.flatten()
    edges = ((flat >= first) & (flat < first + candidates)).nonzero().squeeze(1)
    source = edges % weight.numel()
    target = edges // weight.numel() * candidates + (flat[edges].long() - first)
    return source, target, grad.flatten()[edges // weight.shape[1]] * weight.flatten()[source]


def _weighted_sums(
    weight: Float[Tensor, "E"],
    table: Float[Tensor, "R C"],
    source: Int[Tensor, "E"],
    target: Int[Tensor, "E"],
    targets: int,
) -> Tensor:
    """out[target[e]] += weight[e] * table[source[e]], always in the order of e: bitwise reproducible."""
    if not len(weight):
        return table.new_zeros(targets, table.shape[1])
    order = target.argsort(stable=True)
    first = torch.searchsorted(target[order], torch.arange(targets, device=target.device))
    return functional.embedding_bag(source[order], table, first, mode="sum", per_sample_weights=weight[order])


def chunk_size(limit: dict[str, int], like: Shaped[Tensor, "*n"], numbers_each: int) -> int:
    """How many items of `numbers_each` numbers fit the limit of the device of `like`, at least one."""
    return max(1, limit.get(like.device.type, limit["cuda"]) // max(1, numbers_each))


def chunks(total: int, size: int) -> Iterator[slice]:
    """Slices of `size` items, the last one shorter, that together cover `total` items."""
    return (slice(first, min(first + size, total)) for first in range(0, total, size))
