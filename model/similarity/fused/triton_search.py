"""The search of tiled.py and its gradients on a GPU, by the kernels of triton_kernels.py: fp16, bf16 and fp32 features, sums in fp32.

By arithmetic, measured on no GPU yet: 512 pairs, 2 x 192 channels, 14 x 14 cells, 56 steps, bf16, `misa`, an H100 with 500 TFLOP/s and 4 TB/s from L2:

    search           2.2 TFLOP, 2.9 with the last tile of each image filled up                     6 ms
    to_queries       14.7 million winners of 384 bytes, from L2                                    2 ms
    sort             the winners by candidate, mostly waiting between blocks of 128                1 ms
    to_candidates    14.7 million winners of 384 bytes, from L2                                    2 ms

Materialised under torch.compile: three products, and 11.5 GB read or written about ten times: 45 ms.

Source: reference 1.2, as fused.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
from jaxtyping import Bool, Float
from torch import Tensor

from model.similarity.fused import triton_kernels as kernels
from model.similarity.fused.tiled import ArgmaxRouting, MaxResult, chunk_size

# Maxima, or sorted winners, held at once: 512 MB.
NUMBERS_AT_ONCE = {"cuda": 2**27}


def fits(audio: Float[Tensor, "A K C T"], image: Float[Tensor, "V K C M"]) -> bool:
    """Whether shared memory holds the channels of a head, and the candidates of all heads to sort by."""
    return (
        bool(kernels.fits_shared_memory(kernels.CONFIGS, audio))
        and audio.shape[1] * max(audio.shape[3], image.shape[3]) < kernels.SORTED
    )


def search(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C M"],
    mask: Bool[Tensor, "A T"],
    pair_bias: Float[Tensor, "A V K"] | None,
    heads_per_group: int,
    bidirectional: bool,
) -> Iterator[tuple[slice, MaxResult, MaxResult | None]]:
    """As tiled.search."""
    (A, K, _, T), (V, _, _, M) = audio.shape, image.shape
    steps, cells = _vectors(audio), _vectors(image)
    at_once = chunk_size(NUMBERS_AT_ONCE, audio, K // heads_per_group * A * (max(T, M) if bidirectional else T))
    for v in range(0, V, at_once):
        images = slice(v, min(v + at_once, V))
        shifts = None if pair_bias is None else pair_bias[:, images]
        over_image = _best(steps, cells[:, images], None, None if pair_bias is None else shifts, heads_per_group)
        yield (
            images,
            over_image,
            _best(cells[:, images], steps, mask, None if pair_bias is None else shifts.transpose(0, 1), heads_per_group)
            if bidirectional
            else None,
        )


def gradients(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C M"],
    grad: Float[Tensor, "A V G"],
    over_image: ArgmaxRouting,
    over_audio: ArgmaxRouting | None,
    heads_per_group: int,
) -> tuple[Float[Tensor, "A K C T"], Float[Tensor, "V K C M"]]:
    """As tiled.gradients."""
    steps, cells = _vectors(audio), _vectors(image)
    of_steps, of_cells = _flow(steps, cells, grad, over_image, heads_per_group)
    if over_audio is not None:
        more_cells, more_steps = _flow(cells, steps, grad.transpose(0, 1), over_audio, heads_per_group)
        of_steps, of_cells = of_steps.add_(more_steps), of_cells.add_(more_cells)
    return of_steps.permute(1, 0, 3, 2), of_cells.permute(1, 0, 3, 2)


def _vectors(features: Float[Tensor, "P K C N"]) -> Float[Tensor, "K P N C"]:
    return features.permute(1, 0, 3, 2).contiguous()


def _best(
    queries: Float[Tensor, "K P N C"],
    candidates: Float[Tensor, "K Q M C"],
    valid: Bool[Tensor, "Q M"] | None,
    pair_bias: Float[Tensor, "P Q K"] | None,
    heads_per_group: int,
) -> MaxResult:
    (K, P, N, C), (_, Q, M, _) = queries.shape, candidates.shape
    G, R = K // heads_per_group, P * N
    value = torch.empty(Q, G, P, N, dtype=torch.float32, device=queries.device)
    winner = torch.empty(Q, G, P, N, dtype=torch.int16, device=queries.device)
    with torch.cuda.device_of(queries):
        for k in range(K):
            shift_k = value if pair_bias is None else pair_bias[:, :, k]
            kernels.search[lambda meta: (triton.cdiv(R, meta["BLOCK_R"]), triton.cdiv(Q, kernels.SETS))](
                queries[k],
                candidates[k],
                value if valid is None else valid.contiguous(),
                shift_k,
                value[:, k // heads_per_group],
                winner[:, k // heads_per_group],
                *(R, N, Q, value.stride(0), shift_k.stride(0), shift_k.stride(1), k % heads_per_group * M),
                **{
                    "M": M,
                    "C": C,
                    "SETS": kernels.SETS,
                    "MERGED": k % heads_per_group > 0,
                    "MASKED": valid is not None,
                    "SHIFTED": pair_bias is not None,
                },
                BLOCK_C=kernels.channels_at_once(queries),
            )
    return MaxResult(value, winner)


def _flow(
    queries: Float[Tensor, "K P N C"],
    candidates: Float[Tensor, "K Q M C"],
    grad: Float[Tensor, "P Q G"],
    winners: ArgmaxRouting,
    heads_per_group: int,
) -> tuple[Float[Tensor, "K P N C"], Float[Tensor, "K Q M C"]]:
    """Gradients of both sides of one direction, in fp32."""
    (_, P, N, C), (_, Q, M, _) = queries.shape, candidates.shape
    R, bins, share = P * N, heads_per_group * M, winners.share.contiguous()
    of_queries, of_candidates = (torch.empty_like(x, dtype=torch.float32) for x in (queries, candidates))
    block_c = triton.next_power_of_2(max(C, 16))
    rows = max(1, 4096 // block_c)
    at_once = chunk_size(NUMBERS_AT_ONCE, queries, R)
    order, start = (
        torch.empty(min(at_once, Q), size, dtype=torch.int32, device=queries.device) for size in (R, bins + 1)
    )
    with torch.cuda.device_of(queries):
        for g in range(winners.winner.shape[1]):
            heads, winner, weight = (
                slice(g * heads_per_group, (g + 1) * heads_per_group),
                winners.winner[:, g],
                grad[:, :, g],
            )
            shared = (share, R, N, weight.stride(0), weight.stride(1))
            constants = {"M": M, "C": C, "BLOCK_R": rows, "BLOCK_C": block_c}
            kernels.to_queries[triton.cdiv(R, rows), heads_per_group](
                candidates[heads], winner, weight, of_queries[heads], *shared, Q, winner.stride(0), **constants
            )
            for q in range(0, Q, at_once):
                sets = slice(q, min(q + at_once, Q))
                count = sets.stop - q
                kernels.sort[(count,)](
                    winner[sets],
                    order,
                    start,
                    R,
                    winner.stride(0),
                    BINS=bins,
                    POWER=triton.next_power_of_2(bins + 1),
                    BLOCK=128,
                )
                outcome = of_candidates[heads, sets]
                kernels.to_candidates[(count * bins,)](
                    queries[heads],
                    order,
                    start,
                    weight[:, sets],
                    outcome,
                    *shared,
                    outcome.stride(0),
                    BINS=bins,
                    **constants,
                )
    return of_queries, of_candidates
