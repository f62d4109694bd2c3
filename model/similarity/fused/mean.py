"""`sisa`, the mean over all cells and valid steps, without the volume: the case without a maximum over candidates.

Means commute with the product. Where they do not (clamped similarities, or a maximum over heads in every cell) the
product is computed tile by tile, and again in the backward pass, which adds two products of the same size: at B = 64 on
a CPU 1.5 times faster than dense.py, where other aggregations reach 4 times. Source: reference 1.2.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.dtypes import upcast_half
from model.similarity.fused.tiled import chunk_size, chunks, step_columns

# Numbers in all tiles held at once: 16 MB on a CPU.
TILE_NUMBERS = {"cpu": 2**22, "cuda": 2**27}


def mean_weight(mask: Bool[Tensor, "A T"], dtype: torch.dtype) -> Float[Tensor, "A T"]:
    """Weight of each step in the mean over the valid ones, as in dense.masked_mean."""
    return mask.to(dtype) / mask.sum(dim=1, keepdim=True).clamp(min=0.001)


def mean_of_products(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C M"],
    mask: Bool[Tensor, "A T"],
    pair_bias: Float[Tensor, "A V K"] | None,
) -> Float[Tensor, "A V K"]:
    """`sisa` of each head. Args as tiled.search."""
    audio = upcast_half(audio)
    weight = mean_weight(mask, audio.dtype)
    scores = torch.einsum("akct,at,vkc->avk", audio, weight, image.mean(dim=3, dtype=audio.dtype))
    return scores if pair_bias is None else scores + pair_bias * weight.sum(dim=1)[:, None, None]


class MeanOfMaxima(torch.autograd.Function):
    """`sisa` of the maximum over the heads of each group, clamped at 0 if `nonneg`. Args as tiled.search."""

    @staticmethod
    def forward(
        ctx: Any,
        audio: Float[Tensor, "A K C T"],
        image: Float[Tensor, "V K C M"],
        mask: Bool[Tensor, "A T"],
        pair_bias: Float[Tensor, "A V K"] | None,
        heads_per_group: int,
        nonneg: bool,
    ) -> Float[Tensor, "A V G"]:
        steps = step_columns(audio)
        weight = mean_weight(mask, steps.dtype).T / image.shape[3]
        scores = steps.new_empty(len(image), audio.shape[1] // heads_per_group, len(audio))
        for images, heads, _, tile in _tiles(steps, image, pair_bias, heads_per_group, len(audio)):
            best = tile[0]
            for other in tile[1:]:
                torch.maximum(best, other, out=best)
            best = best.clamp_(min=0) if nonneg else best
            scores[images, heads.start // heads_per_group] = (best.sum(dim=1) * weight).sum(dim=1)
        ctx.save_for_backward(audio, image, weight, pair_bias)
        ctx.options = (heads_per_group, nonneg)
        return scores.permute(2, 0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "A V G"]) -> tuple[Tensor | None, ...]:
        (audio, image, weight, pair_bias), (heads_per_group, nonneg) = ctx.saved_tensors, ctx.options
        (A, K, C, T), M = audio.shape, image.shape[3]
        steps = step_columns(audio)
        grad_steps = torch.zeros_like(steps)
        grad_image, grad_pair_bias = steps.new_empty(len(image), K, M, C), steps.new_empty(A, len(image), K)
        for images, heads, cells, tile in _tiles(steps, image, pair_bias, heads_per_group, A):
            best = tile.amax(dim=0)
            grad_best = grad[:, images, heads.start // heads_per_group].T[:, None, None, :] * weight
            unassigned = torch.ones_like(best) if not nonneg else best.ge(0).to(best.dtype)
            for head in tile:
                torch.eq(head, best, out=head).mul_(unassigned)
                # Of equal heads the first is the arg-max; where none is positive, clamping makes all of them equal.
                unassigned = (unassigned - head) * best.gt(0) if nonneg else unassigned - head
                head *= grad_best
            grad_pair_bias[:, images, heads] = tile.sum(dim=(2, 3)).permute(2, 1, 0)
            flat = tile.view(heads_per_group, -1, T * A)
            with torch.autocast(steps.device.type, enabled=False):
                grad_steps[heads].baddbmm_(cells.transpose(1, 2), flat)
                product = torch.bmm(flat, steps[heads].transpose(1, 2))
            grad_image[images, heads] = product.view(heads_per_group, -1, M, C).transpose(0, 1)
        return (
            grad_steps.view(K, C, T, A).permute(3, 0, 1, 2).to(audio.dtype),
            grad_image.transpose(2, 3).to(image.dtype),
            None,
            None if pair_bias is None else grad_pair_bias,
            None,
            None,
        )


def _tiles(
    steps: Float[Tensor, "K C TA"],
    image: Float[Tensor, "V K C M"],
    pair_bias: Float[Tensor, "A V K"] | None,
    heads_per_group: int,
    audios: int,
) -> Iterator[tuple[slice, slice, Float[Tensor, "J VM C"], Float[Tensor, "J V M T A"]]]:
    """Cells and similarities of a few images and one group of heads at a time; callers may overwrite the latter."""
    (V, K, C, M), columns = image.shape, steps.shape[2]
    images_per_chunk = chunk_size(TILE_NUMBERS, image, columns * M * (heads_per_group + 2))
    buffer = steps.new_empty(heads_per_group, min(images_per_chunk, V) * M, columns)
    for images in chunks(V, images_per_chunk):
        for k in range(0, K, heads_per_group):
            heads = slice(k, k + heads_per_group)
            cells = image[images, heads].permute(1, 0, 3, 2).reshape(heads_per_group, -1, C).to(steps.dtype)
            tile = buffer[:, : cells.shape[1]]
            torch.bmm(cells, steps[heads], out=tile)
            tile = tile.view(heads_per_group, -1, M, columns // audios, audios)
            if pair_bias is not None:
                tile += pair_bias[:, images, heads].permute(2, 1, 0)[:, :, None, None, :]
            yield images, heads, cells, tile
