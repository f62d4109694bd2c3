"""The search for the largest similarity of all pairs, and its gradients, in plain torch: any device, any dtype, the same bits in every run.

fused says what for; triton_search.py does the same in kernels. A tile is the product of a few images with all audios for one head. Half precision is
computed in fp32. Source: reference 1.2, as fused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from model.dtypes import upcast_half

# Numbers in all tiles held at once. On a CPU 16 MB: within its cache, yet few tiles, because each parallel part of each waits for a core that another
# process holds (B = 64, `misa`, 2 cores: 0.26 s alone; beside four busy processes 0.9 s, with tiles half as large 2.3 s).
TILE_NUMBERS = {"cpu": 2**22, "cuda": 2**27}
# Winners handled at once in the backward pass, each about 100 bytes of sorting.
WINNERS_AT_ONCE = {"cpu": 2**16, "cuda": 2**23}


class MaxResult(NamedTuple):
    """For each of the N vectors of p the largest similarity with any of the M vectors of q, and the winner: head within its group * M + place."""

    value: Float[Tensor, "Q G P N"]
    winner: Int[Tensor, "Q G P N"]


class ArgmaxRouting(NamedTuple):
    """What the backward pass needs of one direction: Best.winner, -1 where no gradient flows, and each vector's share in its score."""

    winner: Int[Tensor, "Q G P N"]
    share: Float[Tensor, "P N"]


def search(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C M"],
    mask: Bool[Tensor, "A T"],
    pair_bias: Float[Tensor, "A V K"] | None,
    heads_per_group: int,
    bidirectional: bool,
) -> Iterator[tuple[slice, MaxResult, MaxResult | None]]:
    """A few images at a time: the best cell for each step and, if `mirrored`, the best step for each cell.

    Args:
        mask: True at steps that can be the best of a cell; one at least for each audio.
        shift: added to all similarities of a pair and head.
        together: heads that compete for one maximum, 1 or K, so that there are G = K / together groups.

    Returns:
        The images; their Best with Q = images, P = audios, N = T, M = cells; their Best with Q = audios, P = images, N = cells, M = T.
    """
    (A, K, C, T), (V, _, _, M) = audio.shape, image.shape
    steps = step_columns(audio)
    at_once = chunk_size(TILE_NUMBERS, audio, (1 + bidirectional) * A * T * M)
    buffers = steps.new_empty(1 + bidirectional, min(at_once, V) * M, T * A)
    for v in range(0, V, at_once):
        images = slice(v, min(v + at_once, V))
        cells = image[images].permute(1, 0, 3, 2).reshape(K, -1, C).to(steps.dtype)
        of_steps, of_cells = [], []
        for k in range(K):
            tile, scratch = (buffers[n, : cells.shape[1]].view(-1, M, T, A) for n in (0, -1))
            torch.mm(cells[k], steps[k], out=tile.view(-1, T * A))
            of_steps.append([found.transpose(1, 2) for found in _first_maximum(tile, 1, scratch)])
            if bidirectional:
                if not mask.all():
                    tile.masked_fill_(~mask.T, float("-inf"))
                of_cells.append([found.permute(2, 0, 1) for found in _first_maximum(tile, 2, scratch)])
        shifts = None if pair_bias is None else pair_bias[:, images]
        over_image = _best_head(of_steps, None if pair_bias is None else shifts.transpose(0, 1), heads_per_group, M)
        yield images, over_image, _best_head(of_cells, shifts, heads_per_group, T) if bidirectional else None


def step_columns(audio: Float[Tensor, "A K C T"]) -> Float[Tensor, "K C T*A"]:
    """All steps of all audios side by side: the right factor of a tile's product."""
    return upcast_half(audio.permute(1, 2, 3, 0).flatten(2))


def _first_maximum(
    tile: Float[Tensor, "V M T A"], dim: int, scratch: Float[Tensor, "V M T A"]
) -> tuple[Tensor, Tensor]:
    """As tile.max(dim), whose search for the place takes three times as long on a CPU (190 against 40 to 75 ms at B = 64, one core). Overwrites scratch.

    The winners are marked and weighted M, M - 1, ... 1: the heaviest is the first. The place beside a NaN is any place.
    """
    size = tile.shape[dim]
    value = tile.amax(dim, keepdim=True)
    weight = torch.arange(size, 0, -1, dtype=tile.dtype, device=tile.device).view(-1, *[1] * (tile.ndim - 1 - dim))
    place = size - torch.eq(tile, value, out=scratch).mul_(weight).amax(dim)
    return value.squeeze(dim), place.clamp_(max=size - 1).to(torch.int32)


def _best_head(
    found: list[list[Tensor]], pair_bias: Float[Tensor, "Q P K"] | None, heads_per_group: int, candidates: int
) -> MaxResult:
    """The best of the heads that compete, from value and place [Q P N] of each head. Of equal ones the first place wins, there the first head."""
    values, winners = [], []
    for k, (value, place) in enumerate(found):
        value = value if pair_bias is None else value + pair_bias[:, :, k, None]
        if k % heads_per_group == 0:
            values.append(value)
            winners.append(place)
        else:
            better = (value > values[-1]) | ((value == values[-1]) & (place < winners[-1] % candidates))
            winners[-1] = torch.where(better, place + k % heads_per_group * candidates, winners[-1])
            values[-1] = torch.maximum(value, values[-1])
    return MaxResult(torch.stack(values, dim=1), torch.stack(winners, dim=1))


def gradients(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C M"],
    grad: Float[Tensor, "A V G"],
    over_image: ArgmaxRouting,
    over_audio: ArgmaxRouting | None,
    heads_per_group: int,
) -> tuple[Float[Tensor, "A K C T"], Float[Tensor, "V K C M"]]:
    """Gradients of both features, where the gradient of a score flows to its winners alone."""
    (A, K, C, T), (V, _, _, M) = audio.shape, image.shape
    of_audio, of_image = (torch.zeros(P, K, N, C, dtype=grad.dtype, device=grad.device) for P, N in ((A, T), (V, M)))
    at_once = chunk_size(WINNERS_AT_ONCE, audio, A * (T if over_audio is None else T + M) // heads_per_group)
    for k in range(K):
        g, j = divmod(k, heads_per_group)
        rows = audio[:, k].transpose(1, 2).reshape(-1, C).to(grad.dtype)
        for v in range(0, V, at_once):
            images = slice(v, min(v + at_once, V))
            cells = image[images, k].transpose(1, 2).reshape(-1, C).to(grad.dtype)
            row, cell, weight = _grad_edges(
                over_image.winner[images, g], over_image.share, grad[:, images, g].T, j * M, M
            )
            if over_audio is not None:
                of_cells = _grad_edges(
                    over_audio.winner[:, g, images], over_audio.share[images], grad[:, images, g], j * T, T
                )
                cell, row, weight = (torch.cat(both) for both in zip((cell, row, weight), of_cells, strict=True))
            of_audio[:, k] += _weighted_sums(weight, cells, cell, row, len(rows)).view(A, T, C)
            of_image[images, k] = _weighted_sums(weight, rows, row, cell, len(cells)).view(-1, M, C)
    return of_audio.transpose(2, 3), of_image.transpose(2, 3)


def _grad_edges(
    winner: Int[Tensor, "Q P N"], share: Float[Tensor, "P N"], grad: Float[Tensor, "Q P"], first: int, candidates: int
) -> tuple[Int[Tensor, "E"], Int[Tensor, "E"], Float[Tensor, "E"]]:
    """Every pair of vectors of one head between which gradient flows: that of p as an index into [P N], that of q into [Q M], and its weight."""
    won = winner.flatten()
    flows = ((won >= first) & (won < first + candidates)).nonzero().squeeze(1)
    own, place = flows % share.numel(), won[flows].long() - first
    return (
        own,
        flows // share.numel() * candidates + place,
        grad.flatten()[flows // share.shape[1]] * share.flatten()[own],
    )


def _weighted_sums(
    weight: Float[Tensor, "E"],
    table: Float[Tensor, "R C"],
    source: Int[Tensor, "E"],
    target: Int[Tensor, "E"],
    targets: int,
) -> Tensor:
    """out[target[e]] += weight[e] * table[source[e]], always in the order of e, so that a run repeats to the bit."""
    if not len(weight):
        return table.new_zeros(targets, table.shape[1])
    order = target.argsort(stable=True)
    first = torch.searchsorted(target[order], torch.arange(targets, device=target.device))
    return functional.embedding_bag(source[order], table, first, mode="sum", per_sample_weights=weight[order])


def chunk_size(limit: dict[str, int], like: Shaped[Tensor, "*n"], numbers_each: int) -> int:
    """How many items of so many numbers fit the limit of a device, one at least."""
    return max(1, limit.get(like.device.type, limit["cuda"]) // max(1, numbers_each))
