"""The scores of dense.py with the same values and gradients, but without the volume `A V K H W T` in memory.

`misa`, `mima` and `paired` take maxima first, over candidates and over heads: the product is computed tile by tile,
only the arg-max of each maximum is stored (of equal values the first), and the backward pass moves gradients between
arg-max positions alone. triton_search.py does both on a GPU, tiled.py on any device; inference_cpu.py computes scores
without gradients on a CPU. `sisa` takes means, see mean.py.

Memory beside the features: copies per head, gradients in fp32 and in the dtype of the features, buffers of fixed size,
and the arg-max indices, 2 bytes x B^2 x T (`paired`: x (T + HW)), twice that or more where heads do not compete. On a
GPU with B = 4096, T = 56, HW = 196, 2 x 192 channels, bf16, at most at any time:

    GB                 features   copies   gradients   arg-max   buffers   total
    misa, mima              0.8      0.8         2.4       1.9       0.5     6.4
    misa per head           0.8      0.8         2.4       3.8       0.5     8.3
    paired                  0.8      0.8         4.0       8.5       0.5    14.6
    paired per head         0.8      0.8         4.0      16.9       0.5    23.0

Limits: no kernel for `sisa`; no second derivative. Source: reference 1.2 (the scores; the algorithm is our own).
"""

from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.dtypes import upcast_half
from model.features import AudioFeatures, ImageFeatures, map_tensors
from model.similarity import dense, global_pooling
from model.similarity.config import SimilarityConfig
from model.similarity.fused import inference_cpu, tiled
from model.similarity.fused.mean import MeanOfMaxima, mean_of_products, mean_weight
from model.similarity.fused.tiled import TILE_NUMBERS, ArgmaxRouting, MaxResult, chunk_size


def pairwise_similarity(audio: AudioFeatures, image: ImageFeatures, config: SimilarityConfig) -> Float[Tensor, "A V"]:
    """Score of every audio against every image; values as `dense.pairwise_similarity`.

    Args:
        audio: at least one valid step each (audio_mask.downsample_mask guarantees it).
    """
    per_cell = config.head_aggregation == "max_elementwise"
    return dense.HEAD_AGGREGATIONS[config.head_aggregation](_scores(audio, image, config, max_over_heads=per_cell))


def similarity_per_head(audio: AudioFeatures, image: ImageFeatures, config: SimilarityConfig) -> Float[Tensor, "A V K"]:
    """Score of every audio against every image, each head alone; values as `dense.similarity_per_head`."""
    return _scores(audio, image, config, max_over_heads=False)


def _scores(
    audio: AudioFeatures, image: ImageFeatures, config: SimilarityConfig, max_over_heads: bool
) -> Float[Tensor, "A V K_out"]:
    """Scores per head, or with the maximum over heads taken in every cell: then K_out is 1."""
    if config.aggregation in global_pooling.GLOBAL_AGGREGATIONS:
        return global_pooling.similarity_per_head(audio, image, config.aggregation)
    assert config.aggregation in dense.AGGREGATIONS, f"aggregation {config.aggregation}"
    steps, cells, mask, nonneg = audio.dense, image.dense.flatten(3), audio.mask, config.nonneg
    heads_per_group = steps.shape[1] if max_over_heads else 1
    with torch.autocast(steps.device.type, enabled=False):
        bias = None
        if config.use_cls:
            bias = dense.cls_similarity(map_tensors(audio, upcast_half), map_tensors(image, upcast_half))
        if inference_cpu.is_applicable(steps, cells, bias, config.aggregation):
            return inference_cpu.scores(steps, cells, mask, bias, config.aggregation, heads_per_group, nonneg)
        if config.aggregation != "sisa":
            return _PooledMaximum.apply(steps, cells, mask, bias, config.aggregation, heads_per_group, nonneg)
        if nonneg or heads_per_group > 1:
            return MeanOfMaxima.apply(steps, cells, mask, bias, heads_per_group, nonneg)
        return mean_of_products(steps, cells, mask, bias)


def _backend(audio: Float[Tensor, "A K C T"], image: Float[Tensor, "V K C M"]) -> ModuleType:
    """triton_search where it supports the inputs, else tiled."""
    if (
        not audio.is_cuda
        or audio.dtype not in (torch.float32, torch.float16, torch.bfloat16)
        or audio.dtype != image.dtype
    ):
        return tiled
    try:
        from model.similarity.fused import triton_search
    except ImportError:  # torch installs triton on Linux only
        return tiled
    return triton_search if triton_search.fits(audio, image) else tiled


class _PooledMaximum(torch.autograd.Function):
    """`misa`, `mima` and `paired` as one autograd node: maxima over candidates and heads, then mean or maximum."""

    @staticmethod
    def forward(
        ctx: Any,
        audio: Float[Tensor, "A K C T"],
        image: Float[Tensor, "V K C M"],
        mask: Bool[Tensor, "A T"],
        pair_bias: Float[Tensor, "A V K"] | None,
        aggregation: str,
        heads_per_group: int,
        nonneg: bool,
    ) -> Float[Tensor, "A V G"]:
        (A, K, _, T), (V, _, _, M) = audio.shape, image.shape
        G, bidirectional, needs_grad = K // heads_per_group, aggregation == "paired", any(ctx.needs_input_grad)
        scores = upcast_half(audio.new_empty(0)).new_empty(V, G, A)
        if aggregation == "mima":
            pool, step_weight = _max_valid, mask.to(scores.dtype)
        else:
            pool, step_weight = _weighted_sum, mean_weight(mask, scores.dtype) * (0.5 if bidirectional else 1)
        cell_weight = scores.new_full((V, M), 0.5 / M)
        first_step = mask.int().argmax(dim=1).view(A, 1, 1, 1)
        index_dtype = torch.int16 if heads_per_group * max(M, T) <= 2**15 else torch.int32
        step_argmax = audio.new_empty((V, G, A, T) if needs_grad else (0,), dtype=index_dtype)
        cell_argmax = audio.new_empty((A, G, V, M) if needs_grad and bidirectional else (0,), dtype=index_dtype)

        def pool_maxima(images: slice, step_max: MaxResult, cell_max: MaxResult | None) -> None:
            scores[images], argmax = pool(_clamp(step_max, 0) if nonneg else step_max, step_weight)
            if needs_grad:
                step_argmax[images] = argmax
            if cell_max is not None:
                score, argmax = _weighted_sum(_clamp(cell_max, first_step) if nonneg else cell_max, cell_weight[images])
                scores[images] += score.permute(2, 1, 0)
                if needs_grad:
                    cell_argmax[:, :, images] = argmax

        _backend(audio, image).search(audio, image, mask, pair_bias, heads_per_group, bidirectional, pool_maxima)
        ctx.save_for_backward(audio, image, step_argmax, step_weight, cell_argmax, cell_weight)
        ctx.heads_per_group, ctx.bidirectional = heads_per_group, bidirectional
        return scores.permute(2, 0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "A V G"]) -> tuple[Tensor | None, ...]:
        audio, image, step_argmax, step_weight, cell_argmax, cell_weight = ctx.saved_tensors
        heads_per_group = ctx.heads_per_group
        step_routing = ArgmaxRouting(step_argmax, step_weight)
        cell_routing = ArgmaxRouting(cell_argmax, cell_weight) if ctx.bidirectional else None
        grad_audio, grad_image = _backend(audio, image).gradients(
            audio, image, grad, step_routing, cell_routing, heads_per_group
        )
        grad_pair_bias = None
        if ctx.needs_input_grad[3]:
            weight = _weight_per_head(step_routing, heads_per_group, image.shape[3]).permute(2, 0, 1, 3)
            if cell_routing is not None:
                weight = weight + _weight_per_head(cell_routing, heads_per_group, audio.shape[3]).transpose(1, 2)
            grad_pair_bias = (grad[..., None] * weight).flatten(2)
        return grad_audio.to(audio.dtype), grad_image.to(image.dtype), None, grad_pair_bias, None, None, None


def _clamp(best: MaxResult, first: Int[Tensor, "Q 1 1 1"] | int) -> MaxResult:
    """Clamp maxima at 0; clamped ones get no gradient. Where the maximum is 0, the first candidate is the arg-max."""
    value, argmax = best
    return MaxResult(value.clamp(min=0), argmax.masked_fill((value < 0) | ((value == 0) & (argmax != first)), -1))


def _weighted_sum(best: MaxResult, weight: Float[Tensor, "P N"]) -> tuple[Float[Tensor, "Q G P"], Tensor]:
    """Weighted sum of the maxima, and the arg-max positions to which its gradient flows."""
    return (best.value * weight).sum(dim=-1), best.argmax.masked_fill(weight == 0, -1)


def _max_valid(best: MaxResult, weight: Float[Tensor, "P N"]) -> tuple[Float[Tensor, "Q G P"], Tensor]:
    """Largest maximum of weight 1 (0: masked out), and the arg-max position to which its gradient flows."""
    largest, n = (best.value - dense.MASKED_OUT * (1 - weight)).max(dim=-1, keepdim=True)
    return largest.squeeze(-1), torch.full_like(best.argmax, -1).scatter_(-1, n, best.argmax.gather(-1, n))


def _weight_per_head(routing: ArgmaxRouting, heads_per_group: int, candidates: int) -> Float[Tensor, "Q G P J"]:
    """Sum of the weights in a group's score whose arg-max lies in each of its heads."""
    argmax, weight = routing
    chunk = chunk_size(TILE_NUMBERS, argmax, argmax[:1].numel())
    bounds = [(j * candidates, (j + 1) * candidates) for j in range(heads_per_group)]
    return torch.cat(
        [
            torch.stack([(((part >= first) & (part < end)) * weight).sum(dim=-1) for first, end in bounds], dim=-1)
            for part in argmax.split(chunk)
        ]
    )
