"""Baselines that compare one vector with one vector: what dense comparison is measured against. Names are the reference's.

`mean_pool` compares means of all valid steps and of all cells, each brought to length 1; `cls_token` the class tokens of the encoders; `simpool` the vectors
that model.similarity.simpool puts in the class tokens' place. There is no cell, so nothing is clamped. Source: reference 1.2.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def mean_pool(
    audio: Float[Tensor, "A K C T"], image: Float[Tensor, "V K C H W"], mask: Bool[Tensor, "A T"]
) -> tuple[Float[Tensor, "A K C"], Float[Tensor, "V K C"]]:
    """Means over valid steps and over cells, each head's vector of length 1; a fully masked audio gives zeros.

    Source: reference 1.2. Differs from the reference, where masked steps count: the length of the padding would be part of every sound.
    """
    steps = (audio * mask[:, None, None]).sum(dim=-1) / mask.sum(dim=1).clamp(min=1)[:, None, None]
    return functional.normalize(steps, dim=2), functional.normalize(image.mean(dim=(3, 4)), dim=2)


def similarity_per_head(
    audio: Float[Tensor, "A K C T"],
    image: Float[Tensor, "V K C H W"],
    mask: Bool[Tensor, "A T"],
    aggregation: str,
    audio_cls: Float[Tensor, "A K C"] | None,
    image_cls: Float[Tensor, "V K C"] | None,
) -> Float[Tensor, "A V K"]:
    """Dot product of every audio's vector with every image's, head by head.

    Args:
        mask: True at valid steps.
        aggregation: one of GLOBAL_AGGREGATIONS.
        audio_cls, image_cls: the vectors of `cls_token` and `simpool`.
    """
    assert aggregation == "mean_pool" or (audio_cls is not None and image_cls is not None), (
        f"{aggregation} without class tokens"
    )
    audio_vector, image_vector = mean_pool(audio, image, mask) if aggregation == "mean_pool" else (audio_cls, image_cls)
    return torch.einsum("akc,vkc->avk", audio_vector, image_vector)


CLASS_TOKEN_AGGREGATIONS = ("cls_token", "simpool")
GLOBAL_AGGREGATIONS = ("mean_pool", *CLASS_TOKEN_AGGREGATIONS)
