"""The scores of similarity.py, same numbers and same gradients, without the volume `A V K H W T`.

`misa`, `mima` and `paired` take a maximum first: the product is made tile by tile, and only each maximum and its place are kept; the backward pass
gathers and scatters the winners (of equal values, the first wins). `sisa` takes means, which commute with the product; where they do not (clamped,
or a maximum over heads in every cell) its tiles are made a second time in the backward pass.

Limits: tiles in torch, no kernel of its own; computed in the inputs' dtype, whatever autocast says; no second derivative.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from model.grounding import similarity
from model.grounding.similarity import HEAD_AGGREGATIONS, class_similarity, masked_max, masked_mean

# Numbers in one tile of similarities. On a CPU 16 MB: near its cache, yet few tiles, because each parallel region may wait for a core that another
# process holds (beside a busy one, tiles of 4 MB took 4.3 s, these 2.3 s; alone both take 0.3 s; B = 64, 2 cores).
TILE_NUMBERS = {"cpu": 2**22, "cuda": 2**27}
# Winners handled at once in the backward pass, each about 100 bytes of sorting.
WINNERS_AT_ONCE = {"cpu": 2**17, "cuda": 2**23}


def all_pairs_scores(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C H W"],
    mask: Bool[Tensor, "A T"],
    aggregation: str = "misa",
    head_aggregation: str = "max_elementwise",
    nonneg: bool = False,
    audio_cls: Float[Tensor, "A K C"] | None = None,
    image_cls: Float[Tensor, "V K C"] | None = None,
) -> Float[Tensor, "A V"]:
    """Score of every audio against every image; arguments and values as `similarity.all_pairs_scores`.

    Each audio needs one valid step at least (masks.step_mask sees to it).
    """
    elementwise = head_aggregation == "max_elementwise"
    return HEAD_AGGREGATIONS[head_aggregation](_pooled(audio, image, mask, aggregation, elementwise, nonneg, audio_cls, image_cls))


def scores_by_head(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C H W"],
    mask: Bool[Tensor, "A T"],
    aggregation: str = "misa",
    nonneg: bool = False,
    audio_cls: Float[Tensor, "A K C"] | None = None,
    image_cls: Float[Tensor, "V K C"] | None = None,
) -> Float[Tensor, "A V K"]:
    """Score of every audio against every image for each head alone; arguments and values as `similarity.scores_by_head`."""
    return _pooled(audio, image, mask, aggregation, False, nonneg, audio_cls, image_cls)


def _pooled(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C H W"],
    mask: Bool[Tensor, "A T"],
    aggregation: str,
    elementwise: bool,
    nonneg: bool,
    audio_cls: Float[Tensor, "A K C"] | None,
    image_cls: Float[Tensor, "V K C"] | None,
) -> Float[Tensor, "A V K_out"]:
    """Scores for each head, or (`elementwise`) of the best head in every cell: then K_out is 1."""
    assert aggregation in similarity.AGGREGATIONS, f"aggregation {aggregation}"
    if aggregation == "sisa":
        if nonneg or (elementwise and audio.shape[1] > 1):
            return _recomputed(audio, image, mask, aggregation, elementwise, nonneg, audio_cls, image_cls)
        return _mean_of_products(audio, image, mask, audio_cls, image_cls)

    def finish(best: Float[Tensor, "A V K N"]) -> Float[Tensor, "A V K_out N"]:
        """What is constant or monotone in the maximum, and therefore commutes with it."""
        best = best if audio_cls is None else best + class_similarity(audio_cls, image_cls)[..., None]
        best = best.max(dim=2, keepdim=True).values if elementwise else best
        return best.clamp(min=0) if nonneg else best

    steps, cells = audio.transpose(2, 3), image.flatten(3).transpose(2, 3)
    over_image = finish(max_over_candidates(steps, cells))
    if aggregation == "misa":
        return masked_mean(over_image, mask)
    if aggregation == "mima":
        return masked_max(over_image, mask)
    over_audio = finish(max_over_candidates(cells, steps, mask).transpose(0, 1))
    return 0.5 * masked_mean(over_image, mask) + 0.5 * over_audio.mean(dim=-1)


def _mean_of_products(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C H W"],
    mask: Bool[Tensor, "A T"],
    audio_cls: Float[Tensor, "A K C"] | None,
    image_cls: Float[Tensor, "V K C"] | None,
) -> Float[Tensor, "A V K"]:
    share = mask.to(audio.dtype) / mask.sum(dim=1, keepdim=True).clamp(min=0.001)
    scores = torch.einsum("akct,at,vkc->avk", audio, share, image.mean(dim=(3, 4)))
    return scores if audio_cls is None else scores + class_similarity(audio_cls, image_cls) * share.sum(dim=1)[:, None, None]


def _recomputed(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C H W"],
    mask: Bool[Tensor, "A T"],
    aggregation: str,
    elementwise: bool,
    nonneg: bool,
    audio_cls: Float[Tensor, "A K C"] | None,
    image_cls: Float[Tensor, "V K C"] | None,
) -> Float[Tensor, "A V K_out"]:
    """The plain form for a few images at a time; each tile is dropped and made again in the backward pass."""

    def tile(image: Tensor, image_cls: Tensor | None) -> Tensor:
        options = {"mask": mask, "aggregation": aggregation, "nonneg": nonneg, "audio_cls": audio_cls, "image_cls": image_cls}
        if not elementwise:
            return similarity.scores_by_head(audio, image, **options)
        return similarity.all_pairs_scores(audio, image, head_aggregation="max_elementwise", **options)[..., None]

    at_once = _at_once(TILE_NUMBERS, audio, audio[:, :, 0].numel() * image[0, 0, 0].numel())
    classes = [None] * len(image) if image_cls is None else image_cls.split(at_once)
    return torch.cat([checkpoint(tile, part, cls, use_reentrant=False) for part, cls in zip(image.split(at_once), classes, strict=False)], dim=1)


def max_over_candidates(
    queries: Float[Tensor, "P K N C"], candidates: Float[Tensor, "Q K M C"], valid: Bool[Tensor, "Q M"] | None = None
) -> Float[Tensor, "P Q K N"]:
    """Largest dot product of each of N vectors of p with any of the M vectors of q, head by head.

    Args:
        valid: True for the candidates that may win, one at least for each q; None: all.
    """
    return _MaxOverCandidates.apply(queries, candidates, valid)


class _MaxOverCandidates(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries: Tensor, candidates: Tensor, valid: Tensor | None) -> Tensor:
        (P, K, N, C), (Q, _, M, _) = queries.shape, candidates.shape
        rows = queries.permute(1, 0, 2, 3).reshape(K, P * N, C)
        largest = queries.new_empty(Q, K, P * N)
        winner = torch.empty(Q, K, P * N, dtype=torch.int32, device=queries.device)
        at_once = _at_once(TILE_NUMBERS, queries, P * N * M)
        with torch.autocast(queries.device.type, enabled=False):
            for q in range(0, Q, at_once):
                for k in range(K):
                    tile = (rows[k] @ candidates[q : q + at_once, k].reshape(-1, C).T).unflatten(1, (-1, M))
                    if valid is not None:
                        tile = tile.masked_fill_(~valid[q : q + at_once], float("-inf"))
                    values, places = tile.max(dim=-1)
                    largest[q : q + at_once, k] = values.T
                    winner[q : q + at_once, k] = places.T
        ctx.save_for_backward(queries, candidates, winner)
        return largest.view(Q, K, P, N).permute(2, 0, 1, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        queries, candidates, winner = ctx.saved_tensors
        (P, K, N, C), (Q, _, M, _) = queries.shape, candidates.shape
        rows = queries.permute(1, 0, 2, 3).reshape(K, P * N, C)
        grad = grad.permute(1, 2, 0, 3).reshape(Q, K, P * N)
        grad_rows, grad_candidates = torch.zeros_like(rows), torch.empty_like(candidates, memory_format=torch.contiguous_format)
        at_once = _at_once(WINNERS_AT_ONCE, queries, P * N)
        for q in range(0, Q, at_once):
            for k in range(K):
                # Heads that lost and steps masked out have no gradient: half of the work or more.
                in_chunk, row = grad[q : q + at_once, k].nonzero(as_tuple=True)
                weight = grad[q + in_chunk, k, row]
                cell = in_chunk * M + winner[q + in_chunk, k, row]
                table = candidates[q : q + at_once, k].reshape(-1, C)
                grad_rows[k] += _weighted_sums(weight, table, cell, row, P * N)
                grad_candidates[q : q + at_once, k] = _weighted_sums(weight, rows[k], row, cell, len(table)).view(-1, M, C)
        return grad_rows.view(K, P, N, C).permute(1, 0, 2, 3), grad_candidates, None


def _weighted_sums(weight: Float[Tensor, "E"], table: Float[Tensor, "R C"], source: Int[Tensor, "E"], target: Int[Tensor, "E"], targets: int) -> Tensor:
    """out[target[e]] += weight[e] * table[source[e]], always in the order of e, so that a run repeats to the bit."""
    if not len(weight):
        return table.new_zeros(targets, table.shape[1])
    order = target.argsort(stable=True)
    first = torch.searchsorted(target[order], torch.arange(targets, device=target.device))
    return functional.embedding_bag(source[order], table, first, mode="sum", per_sample_weights=weight[order])


def _at_once(limit: dict[str, int], like: Tensor, numbers_each: int) -> int:
    return max(1, limit.get(like.device.type, limit["cuda"]) // max(1, numbers_each))
