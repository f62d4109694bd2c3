"""Golden cases of the projections ("aligners") of the published models."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from model.convert.denseav import convert_projection
from model.projection import AudioSelfAttentionPool, ImageLinear

ALIGNERS: dict[str, type[ImageLinear | AudioSelfAttentionPool]] = {
    "image_linear": ImageLinear,
    "audio_sa_3_3_pool_2": AudioSelfAttentionPool,
}


def projection(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Dense features and class token after a projection with stored weights."""
    module = ALIGNERS[params["aligner"]](params["in_dim"], params["out_dim"]).eval()
    stored = {name.removeprefix("state."): tensor for name, tensor in tensors.items() if name.startswith("state.")}
    module.load_state_dict(convert_projection(stored, module))
    dense = tensors["features"]
    if isinstance(module, AudioSelfAttentionPool):  # the reference's projection averages a frequency axis
        dense = dense.mean(dim=2)
    with torch.no_grad():
        features, cls = module(dense, tensors["cls"])
    yield {"features": features, "cls": cls}
