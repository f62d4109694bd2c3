"""`sisa`, the mean over all cells and valid steps, without the volume: what fused does where no maximum over candidates is taken.

Means commute with the product. Where they do not (clamped, or a maximum over heads in every cell) the product is made tile by tile, and once more in the
backward pass, whose two products are as large as it: at B = 64 on a CPU 1.5 times faster than the plain form, where other scores reach 4.
Source: reference 1.2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.dtypes import upcast_half
from model.similarity.fused.tiled import TILE_NUMBERS, chunk_size, step_columns


def mean_weight(mask: Bool[Tensor, "A T"], dtype: torch.dtype) -> Float[Tensor, "A T"]:
    """The weight of each step in the mean over the valid ones (similarity.masked_mean)."""
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
    """`sisa` of the largest of `together` heads in every cell and step, clamped at 0 if `nonneg`. Args as tiled.search."""

    @staticmethod
    def forward(
        ctx,
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
    def backward(ctx, grad: Float[Tensor, "A V G"]) -> tuple[Tensor | None, ...]:
        (audio, image, weight, pair_bias), (heads_per_group, nonneg) = ctx.saved_tensors, ctx.options
        (A, K, C, T), M = audio.shape, image.shape[3]
        steps = step_columns(audio)
        of_steps, of_image, of_shift = (
            torch.zeros_like(steps),
            steps.new_empty(len(image), K, M, C),
            steps.new_empty(A, len(image), K),
        )
        for images, heads, cells, tile in _tiles(steps, image, pair_bias, heads_per_group, A):
            best = tile.amax(dim=0)
            flow = grad[:, images, heads.start // heads_per_group].T[:, None, None, :] * weight
            free = torch.ones_like(best) if not nonneg else best.ge(0).to(best.dtype)
            for head in tile:
                torch.eq(head, best, out=head).mul_(free)
                # The first of equal heads wins; where none is positive, clamping makes all of them equal.
                free = (free - head) * best.gt(0) if nonneg else free - head
                head *= flow
            of_shift[:, images, heads] = tile.sum(dim=(2, 3)).permute(2, 1, 0)
            flat = tile.view(heads_per_group, -1, T * A)
            with torch.autocast(steps.device.type, enabled=False):
                of_steps[heads].baddbmm_(cells.transpose(1, 2), flat)
                of_image[images, heads] = (
                    torch.bmm(flat, steps[heads].transpose(1, 2)).view(heads_per_group, -1, M, C).transpose(0, 1)
                )
        of_audio = of_steps.view(K, C, T, A).permute(3, 0, 1, 2)
        return (
            of_audio.to(audio.dtype),
            of_image.transpose(2, 3).to(image.dtype),
            None,
            None if pair_bias is None else of_shift,
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
    """A few images and one group of heads at a time: their cells and similarities, to be overwritten."""
    (V, K, C, M), columns = image.shape, steps.shape[2]
    at_once = chunk_size(TILE_NUMBERS, image, columns * M * (heads_per_group + 2))
    buffer = steps.new_empty(heads_per_group, min(at_once, V) * M, columns)
    for v in range(0, V, at_once):
        images = slice(v, min(v + at_once, V))
        for k in range(0, K, heads_per_group):
            heads = slice(k, k + heads_per_group)
            cells = image[images, heads].permute(1, 0, 3, 2).reshape(heads_per_group, -1, C).to(steps.dtype)
            tile = buffer[:, : cells.shape[1]]
            torch.bmm(cells, steps[heads], out=tile)
            tile = tile.view(heads_per_group, -1, M, columns // audios, audios)
            if pair_bias is not None:
                tile += pair_bias[:, images, heads].permute(2, 1, 0)[:, :, None, None, :]
            yield images, heads, cells, tile
