"""Projected features of images and audio, split into heads: one object for each side."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class ImageFeatures(NamedTuple):
    """Image features: `dense` [V K C H W], class tokens `cls` [V K C] or None."""

    dense: Float[Tensor, "V K C H W"]
    cls: Float[Tensor, "V K C"] | None = None


class AudioFeatures(NamedTuple):
    """Audio features: `dense` [A K C T], `mask` [A T] (True = valid step), class tokens `cls` [A K C] or None."""

    dense: Float[Tensor, "A K C T"]
    mask: Bool[Tensor, "A T"]
    cls: Float[Tensor, "A K C"] | None = None


Features = TypeVar("Features", ImageFeatures, AudioFeatures)


def map_tensors(features: Features, function: Callable[[Tensor], Tensor]) -> Features:
    """Apply a function to every tensor of the features: select rows, change device or dtype."""
    return type(features)._make(None if tensor is None else function(tensor) for tensor in features)


def concat_features(parts: Sequence[Features]) -> Features:
    """Concatenate the features of several batches along the first axis."""
    return type(parts[0])._make(None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True))
