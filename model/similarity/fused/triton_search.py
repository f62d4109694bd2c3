"""The functions of tiled.py on a GPU, by the kernels of triton_kernels.py: fp16, bf16 and fp32 features, sums in fp32.

Estimated, not measured: 512 pairs, 2 x 192 channels, 14 x 14 cells, 56 steps, bf16, `misa`, an H100 with 500 TFLOP/s
and 4 TB/s from L2:

    search                 2.2 TFLOP, 2.9 with padding of the last tile of each image               6 ms
    query_gradients        14.7 million arg-max vectors of 384 bytes, from L2                       2 ms
    sort                   queries by arg-max, mostly latency between blocks of 128                 1 ms
    candidate_gradients    14.7 million arg-max vectors of 384 bytes, from L2                       2 ms

dense.py under torch.compile: three products, and 11.5 GB read or written about ten times: 45 ms.

Source: reference 1.2; see the package for the algorithm.
"""

from collections.abc import Callable

import torch
import triton
from jaxtyping import Bool, Float
from torch import Tensor

from model.similarity.fused import triton_kernels as kernels
from model.similarity.fused.tiled import ArgmaxRouting, MaxResult, chunk_size, chunks

# Maxima, or sorted queries, held at once: 512 MB.
CHUNK_NUMBERS = {"cuda": 2**27}


def fits(audio: Float[Tensor, "A K C T"], image: Float[Tensor, "V K C M"]) -> bool:
    """Whether shared memory holds the channels of a head, and `sort` the candidates of all heads."""
    return (
        bool(kernels.fitting_configs(kernels.CONFIGS, audio))
        and audio.shape[1] * max(audio.shape[3], image.shape[3]) < kernels.MAX_SORT_BINS
    )


def search(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C M"],
    mask: Bool[Tensor, "A T"],
    pair_bias: Float[Tensor, "A V K"] | None,
    heads_per_group: int,
    bidirectional: bool,
    consume: Callable[[slice, MaxResult, MaxResult | None], None],
) -> None:
    """As tiled.search."""
    (A, K, _, T), (V, _, _, M) = audio.shape, image.shape
    steps, cells = _vectors(audio), _vectors(image)
    numbers_per_image = K // heads_per_group * A * (max(T, M) if bidirectional else T)
    images_per_chunk = chunk_size(CHUNK_NUMBERS, audio, numbers_per_image)
    for images in chunks(V, images_per_chunk):
        bias = None if pair_bias is None else pair_bias[:, images]
        step_max = _maxima(steps, cells[:, images], None, bias, heads_per_group)
        cell_max = None
        if bidirectional:
            transposed = None if bias is None else bias.transpose(0, 1)
            cell_max = _maxima(cells[:, images], steps, mask, transposed, heads_per_group)
        consume(images, step_max, cell_max)


def gradients(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C M"],
    grad: Float[Tensor, "A V G"],
    step_routing: ArgmaxRouting,
    cell_routing: ArgmaxRouting | None,
    heads_per_group: int,
) -> tuple[Float[Tensor, "A K C T"], Float[Tensor, "V K C M"]]:
    """As tiled.gradients."""
    steps, cells = _vectors(audio), _vectors(image)
    grad_steps, grad_cells = _direction_gradients(steps, cells, grad, step_routing, heads_per_group)
    if cell_routing is not None:
        more_cells, more_steps = _direction_gradients(cells, steps, grad.transpose(0, 1), cell_routing, heads_per_group)
        grad_steps, grad_cells = grad_steps.add_(more_steps), grad_cells.add_(more_cells)
    return grad_steps.permute(1, 0, 3, 2), grad_cells.permute(1, 0, 3, 2)


def _vectors(features: Float[Tensor, "P K C N"]) -> Float[Tensor, "K P N C"]:
    return features.permute(1, 0, 3, 2).contiguous()


def _maxima(
    queries: Float[Tensor, "K P N C"],
    candidates: Float[Tensor, "K Q M C"],
    valid: Bool[Tensor, "Q M"] | None,
    pair_bias: Float[Tensor, "P Q K"] | None,
    heads_per_group: int,
) -> MaxResult:
    """Maximum over the candidates for each query."""
    (K, P, N, C), (_, Q, M, _) = queries.shape, candidates.shape
    G, R = K // heads_per_group, P * N
    value = torch.empty(Q, G, P, N, dtype=torch.float32, device=queries.device)
    argmax = torch.empty(Q, G, P, N, dtype=torch.int16, device=queries.device)
    with torch.cuda.device_of(queries):
        for k in range(K):
            # Kernels do not read the pointers of an absent mask or bias.
            bias = value if pair_bias is None else pair_bias[:, :, k]
            kernels.search[lambda meta: (triton.cdiv(R, meta["BLOCK_R"]), triton.cdiv(Q, kernels.SETS))](
                queries[k],
                candidates[k],
                value if valid is None else valid.contiguous(),
                bias,
                value[:, k // heads_per_group],
                argmax[:, k // heads_per_group],
                *(R, N, Q, value.stride(0), bias.stride(0), bias.stride(1), k % heads_per_group * M),
                M=M,
                C=C,
                SETS=kernels.SETS,
                MERGED=k % heads_per_group > 0,
                MASKED=valid is not None,
                BIASED=pair_bias is not None,
                BLOCK_C=kernels.block_channels(queries),
            )
    return MaxResult(value, argmax)


def _direction_gradients(
    queries: Float[Tensor, "K P N C"],
    candidates: Float[Tensor, "K Q M C"],
    grad: Float[Tensor, "P Q G"],
    routing: ArgmaxRouting,
    heads_per_group: int,
) -> tuple[Float[Tensor, "K P N C"], Float[Tensor, "K Q M C"]]:
    """Gradients of queries and candidates of one direction, in fp32."""
    (_, P, N, C), (_, Q, M, _) = queries.shape, candidates.shape
    R, bins = P * N, heads_per_group * M
    grad_queries, grad_candidates = (torch.empty_like(x, dtype=torch.float32) for x in (queries, candidates))
    block_c = triton.next_power_of_2(max(C, 16))
    block_r = max(1, 4096 // block_c)
    sets_per_chunk = chunk_size(CHUNK_NUMBERS, queries, R)
    order, start = (
        torch.empty(min(sets_per_chunk, Q), size, dtype=torch.int32, device=queries.device) for size in (R, bins + 1)
    )
    weight = routing.weight.contiguous()
    constants = {"M": M, "C": C, "BLOCK_R": block_r, "BLOCK_C": block_c}
    with torch.cuda.device_of(queries):
        for g in range(routing.argmax.shape[1]):
            heads = slice(g * heads_per_group, (g + 1) * heads_per_group)
            argmax, grad_g = routing.argmax[:, g], grad[:, :, g]
            common = (weight, R, N, grad_g.stride(0), grad_g.stride(1))
            kernels.query_gradients[triton.cdiv(R, block_r), heads_per_group](
                candidates[heads], argmax, grad_g, grad_queries[heads], *common, Q, argmax.stride(0), **constants
            )
            for sets in chunks(Q, sets_per_chunk):
                count = sets.stop - sets.start
                power = triton.next_power_of_2(bins + 1)
                kernels.sort[(count,)](
                    argmax[sets], order, start, R, argmax.stride(0), BINS=bins, POWER=power, BLOCK=128
                )
                out = grad_candidates[heads, sets]
                kernels.candidate_gradients[(count * bins,)](
                    queries[heads], order, start, grad_g[:, sets], out, *common, out.stride(0), BINS=bins, **constants
                )
    return grad_queries, grad_candidates
