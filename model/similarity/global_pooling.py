"""Baselines that compare one vector per image with one vector per audio, to measure what dense comparison gains.

`mean_pool` (CAV-MAE) compares L2-normalized means over cells and over valid steps, `cls_token` (ImageBind) the class
tokens of the encoders, `simpool` the vectors of model.similarity.simpool in their place. Nothing is clamped. Source:
reference 1.2.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from model.features import AudioFeatures, ImageFeatures

CLASS_TOKEN_AGGREGATIONS = ("cls_token", "simpool")
GLOBAL_AGGREGATIONS = ("mean_pool", *CLASS_TOKEN_AGGREGATIONS)


def mean_pool(audio: AudioFeatures, image: ImageFeatures) -> tuple[Float[Tensor, "A K C"], Float[Tensor, "V K C"]]:
    """L2-normalized means over valid steps and over cells, per head; a fully masked audio gives zeros.

    Source: reference 1.2. Differs from the reference, which includes masked steps: the mean would depend on the
    padding.
    """
    return mean_pool_audio(audio), mean_pool_image(image)


def mean_pool_audio(audio: AudioFeatures) -> Float[Tensor, "A K C"]:
    """L2-normalized mean over valid steps, per head; a fully masked audio gives zeros. Source: reference 1.2."""
    steps = (audio.dense * audio.mask[:, None, None]).sum(dim=-1) / audio.mask.sum(dim=1).clamp(min=1)[:, None, None]
    return functional.normalize(steps, dim=2)


def mean_pool_image(image: ImageFeatures) -> Float[Tensor, "V K C"]:
    """L2-normalized mean over cells, per head. Source: reference 1.2."""
    return functional.normalize(image.dense.mean(dim=(3, 4)), dim=2)


def similarity_per_head(audio: AudioFeatures, image: ImageFeatures, aggregation: str) -> Float[Tensor, "A V K"]:
    """Dot product of every audio vector with every image vector, per head.

    Args:
        aggregation: one of GLOBAL_AGGREGATIONS; `cls_token` and `simpool` need features with class tokens.
    """
    audio_vector, image_vector = mean_pool(audio, image) if aggregation == "mean_pool" else (audio.cls, image.cls)
    assert audio_vector is not None and image_vector is not None, f"{aggregation} without class tokens"
    return torch.einsum("akc,vkc->avk", audio_vector, image_vector)
