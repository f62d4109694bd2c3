"""Exact scores of every audio against every image, with the whole similarity volume in memory.

fused/ gives the same values without it. Limits: A * V * K * H * W * T numbers, 10.7 GiB for each head at batch 512.
Source: reference 1.2.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model.dtypes import upcast_half
from model.features import AudioFeatures, ImageFeatures, map_tensors
from model.similarity import global_pooling
from model.similarity.config import SimilarityConfig

# Subtracted from masked-out steps, so that they never are the maximum over time (reference 1.2).
MASKED_OUT = 1e7


def similarity_volume(
    audio: AudioFeatures, image: ImageFeatures, nonneg: bool = False, use_cls: bool = False
) -> Float[Tensor, "A V K H W T"]:
    """Dot product of every audio step with every image cell, per head.

    Args:
        audio, image: projected features, not normalized.
        nonneg: clamp similarities at 0.
        use_cls: add the dot product of the class tokens to every cell of its head.

    Source: reference 1.2.
    """
    volume = torch.einsum("akct,vkchw->avkhwt", audio.dense, image.dense)
    if use_cls:
        volume = volume + cls_similarity(audio, image)[..., None, None, None]
    return volume.clamp(min=0) if nonneg else volume


def cls_similarity(audio: AudioFeatures, image: ImageFeatures) -> Float[Tensor, "A V K"]:
    """Dot product of every audio class token with every image class token, per head."""
    assert audio.cls is not None and image.cls is not None, "features without class tokens"
    return torch.einsum("akc,vkc->avk", audio.cls, image.cls)


def paired_similarity(
    audio: AudioFeatures, image: ImageFeatures, nonneg: bool = False, use_cls: bool = False
) -> Float[Tensor, "B K H W T"]:
    """Similarities of matching pairs only, 0 at masked-out steps: the input of heatmaps and of most loss terms.

    Computed in float32 or better.

    Args:
        audio, image: features of B pairs; a fully masked pair gives zeros.
        nonneg, use_cls: see `similarity_volume`.

    Source: reference 1.2.
    """
    audio, image = map_tensors(audio, upcast_half), map_tensors(image, upcast_half)
    volume = torch.einsum("bkct,bkchw->bkhwt", audio.dense, image.dense)
    if use_cls:
        assert audio.cls is not None and image.cls is not None, "features without class tokens"
        volume = volume + torch.einsum("bkc,bkc->bk", audio.cls, image.cls)[..., None, None, None]
    if nonneg:
        volume = volume.clamp(min=0)
    return volume * audio.mask[:, None, None, None, :]


def masked_mean(values: Float[Tensor, "A V K T"], mask: Bool[Tensor, "A T"]) -> Float[Tensor, "A V K"]:
    """Mean over the valid steps: sum / max(number of valid steps, 0.001), so a fully masked audio gives 0."""
    weight = mask[:, None, None, :].to(values.dtype)
    return (values * weight).sum(-1) / weight.sum(-1).clamp(min=0.001)


def masked_max(values: Float[Tensor, "A V *rest T"], mask: Bool[Tensor, "A T"]) -> Float[Tensor, "A V *rest"]:
    """Maximum over the valid steps; a fully masked audio gives about -1e7."""
    masked_out = (~mask).to(values.dtype).view(len(mask), *[1] * (values.ndim - 2), -1)
    return (values - MASKED_OUT * masked_out).max(dim=-1).values


def _misa(volume: Float[Tensor, "A V K H W T"], mask: Bool[Tensor, "A T"]) -> Float[Tensor, "A V K"]:
    return masked_mean(volume.flatten(3, 4).max(dim=3).values, mask)


def _mima(volume: Float[Tensor, "A V K H W T"], mask: Bool[Tensor, "A T"]) -> Float[Tensor, "A V K"]:
    return masked_max(volume.flatten(3, 4).max(dim=3).values, mask)


def _sisa(volume: Float[Tensor, "A V K H W T"], mask: Bool[Tensor, "A T"]) -> Float[Tensor, "A V K"]:
    return masked_mean(volume.mean(dim=(3, 4)), mask)


def _paired(volume: Float[Tensor, "A V K H W T"], mask: Bool[Tensor, "A T"]) -> Float[Tensor, "A V K"]:
    return 0.5 * _misa(volume, mask) + 0.5 * masked_max(volume, mask).mean(dim=(3, 4))


# From a volume to one score per head: i = image, a = audio, m = maximum, s = mean. `paired` averages misa and its
# mirror image.
AGGREGATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "misa": _misa,
    "mima": _mima,
    "sisa": _sisa,
    "paired": _paired,
}

# From one score per head to one score. `max_elementwise` takes its maximum before, cell by cell, and arrives with one
# head; global vectors have no cells, so their heads are still apart.
HEAD_AGGREGATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_elementwise": lambda scores: scores.max(dim=-1).values,
    "sum": lambda scores: scores.sum(dim=-1),
    "max": lambda scores: scores.max(dim=-1).values,
}


def similarity_per_head(audio: AudioFeatures, image: ImageFeatures, config: SimilarityConfig) -> Float[Tensor, "A V K"]:
    """Score of every audio against every image, each head alone.

    Args:
        config: its `head_aggregation` is not used.

    Returns:
        Any range; a fully masked audio gives 0 (misa, sisa, mean_pool), about -1e7 (mima) or half of that (paired).

    Source: reference 1.2.
    """
    if config.aggregation in global_pooling.GLOBAL_AGGREGATIONS:
        return global_pooling.similarity_per_head(audio, image, config.aggregation)
    return AGGREGATIONS[config.aggregation](similarity_volume(audio, image, config.nonneg, config.use_cls), audio.mask)


def pairwise_similarity(audio: AudioFeatures, image: ImageFeatures, config: SimilarityConfig) -> Float[Tensor, "A V"]:
    """Score of every audio against every image.

    Returns:
        Any range; a fully masked audio as in `similarity_per_head`.

    Source: reference 1.2.
    """
    aggregate_heads = HEAD_AGGREGATIONS[config.head_aggregation]
    if config.aggregation in global_pooling.GLOBAL_AGGREGATIONS:
        return aggregate_heads(global_pooling.similarity_per_head(audio, image, config.aggregation))
    volume = similarity_volume(audio, image, config.nonneg, config.use_cls)
    if config.head_aggregation == "max_elementwise":
        volume = volume.max(dim=2, keepdim=True).values
    return aggregate_heads(AGGREGATIONS[config.aggregation](volume, audio.mask))
