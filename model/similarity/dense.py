"""Scores of every audio against every image, written plainly: the volume of all similarities is held in memory. fused gives the same numbers
without it. Limits: A * V * K * H * W * T numbers, 10.7 GiB for each head at batch 512. Source: reference 1.2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model.similarity import global_pooling
from model.similarity.global_pooling import GLOBAL_AGGREGATIONS

# Subtracted from steps that must not win a maximum over time (reference 1.2).
MASKED_OUT = 1e7


def similarity_volume(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C H W"],
    audio_cls: Float[Tensor, "A K C"] | None = None,
    image_cls: Float[Tensor, "V K C"] | None = None,
) -> Float[Tensor, "A V K H W T"]:
    """Dot product of every audio step with every image cell, head by head.

    Args:
        audio, image: projected features, not normalised.
        audio_cls, image_cls: class tokens; the dot product of the two is added to every cell of its head. None: nothing is added.

    Source: reference 1.2.
    """
    volume = torch.einsum("akct,vkchw->avkhwt", audio, image)
    return volume if audio_cls is None else volume + cls_similarity(audio_cls, image_cls)[..., None, None, None]


def cls_similarity(audio_cls: Float[Tensor, "A K C"], image_cls: Float[Tensor, "V K C"]) -> Float[Tensor, "A V K"]:
    """Dot product of every audio class token with every image class token, head by head."""
    return torch.einsum("akc,vkc->avk", audio_cls, image_cls)


def paired_similarity(
    audio: Float[Tensor, "B K C T"],
    image: Float[Tensor, "B K C H W"],
    mask: Bool[Tensor, "B T"],
    nonneg: bool = False,
    audio_cls: Float[Tensor, "B K C"] | None = None,
    image_cls: Float[Tensor, "B K C"] | None = None,
) -> Float[Tensor, "B K H W T"]:
    """Similarities of matching pairs only, 0 at masked-out steps: what heatmaps and most loss terms are made of.

    Args:
        mask: True at valid steps; a fully masked pair gives zeros.
        nonneg: clamp similarities at 0.

    Source: reference 1.2.
    """
    volume = torch.einsum("bkct,bkchw->bkhwt", audio, image)
    if audio_cls is not None:
        volume = volume + torch.einsum("bkc,bkc->bk", audio_cls, image_cls)[..., None, None, None]
    if nonneg:
        volume = volume.clamp(min=0)
    return volume * mask[:, None, None, None, :]


def masked_mean(values: Float[Tensor, "A V K T"], mask: Bool[Tensor, "A T"]) -> Float[Tensor, "A V K"]:
    """Mean over the valid steps; the sum is divided by max(number of valid steps, 0.001), so a fully masked audio gives 0."""
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


# From a volume to one score for each head: i = over the image, a = over the audio, m = maximum, s = mean. `paired` averages misa and its mirror.
AGGREGATIONS: dict[str, Callable[..., Tensor]] = {"misa": _misa, "mima": _mima, "sisa": _sisa, "paired": _paired}

# From one score for each head to one score. `max_elementwise` has taken its maximum before, cell by cell, and comes with one head; vectors of whole images
# and sounds have no cells, so their heads are still apart.
HEAD_AGGREGATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_elementwise": lambda scores: scores.max(dim=-1).values,
    "sum": lambda scores: scores.sum(dim=-1),
    "max": lambda scores: scores.max(dim=-1).values,
}


def similarity_per_head(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C H W"],
    mask: Bool[Tensor, "A T"],
    aggregation: str = "misa",
    nonneg: bool = False,
    audio_cls: Float[Tensor, "A K C"] | None = None,
    image_cls: Float[Tensor, "V K C"] | None = None,
) -> Float[Tensor, "A V K"]:
    """Score of every audio against every image, for each head alone.

    Args:
        mask: True at valid steps.
        aggregation: a key of AGGREGATIONS, or one of GLOBAL_AGGREGATIONS.
        nonneg: clamp similarities at 0.

    Returns:
        Any range; a fully masked audio gives 0 (misa, sisa, mean_pool), about -1e7 (mima) or half of it (paired).

    Source: reference 1.2.
    """
    if aggregation in GLOBAL_AGGREGATIONS:
        return global_pooling.similarity_per_head(audio, image, mask, aggregation, audio_cls, image_cls)
    volume = similarity_volume(audio, image, audio_cls, image_cls)
    return AGGREGATIONS[aggregation](volume.clamp(min=0) if nonneg else volume, mask)


def pairwise_similarity(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C H W"],
    mask: Bool[Tensor, "A T"],
    aggregation: str = "misa",
    head_aggregation: str = "max_elementwise",
    nonneg: bool = False,
    audio_cls: Float[Tensor, "A K C"] | None = None,
    image_cls: Float[Tensor, "V K C"] | None = None,
) -> Float[Tensor, "A V"]:
    """Score of every audio against every image.

    Args:
        mask: True at valid steps.
        aggregation: a key of AGGREGATIONS, or one of GLOBAL_AGGREGATIONS.
        head_aggregation: a key of HEAD_AGGREGATIONS.
        nonneg: clamp similarities at 0.

    Returns:
        Any range; a fully masked audio as in `similarity_per_head`.

    Source: reference 1.2.
    """
    if aggregation in GLOBAL_AGGREGATIONS:
        return HEAD_AGGREGATIONS[head_aggregation](
            global_pooling.similarity_per_head(audio, image, mask, aggregation, audio_cls, image_cls)
        )
    volume = similarity_volume(audio, image, audio_cls, image_cls)
    volume = volume.clamp(min=0) if nonneg else volume
    if head_aggregation == "max_elementwise":
        volume = volume.max(dim=2, keepdim=True).values
    return HEAD_AGGREGATIONS[head_aggregation](AGGREGATIONS[aggregation](volume, mask))
