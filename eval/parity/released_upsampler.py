"""The golden case of FeatUp's full-size upsamplers: released layout, weights by rule."""

import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from model.upsamplers.channel_norm import ChannelNorm
from model.upsamplers.jbu import Jbu

UPSAMPLER, NORM = "upsampler.", "model.1."


def released_upsampler(params: dict[str, Any], _: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Samples and statistics of the upsampled features; weights and inputs follow the rule of the golden README.

    Args:
        params: also `keys`, the content of featup_released_layout.json.
    """
    variant = "norm" if params["normalised"] else "no_norm"
    shapes = params["keys"]["models"][params["model"]]["variants"][variant]["keys"]
    state = {name: generated(name, shape) for name, shape in shapes.items() if name.startswith((UPSAMPLER, NORM))}
    upsampler = Jbu(params["channels"])
    upsampler.load_state_dict(_part(state, UPSAMPLER))
    random = np.random.RandomState(params["input_seed"])
    image, features = (
        torch.from_numpy(random.standard_normal(params[name]).astype(np.float32)) for name in ("image", "features")
    )
    if params["normalised"]:
        norm = ChannelNorm(params["channels"])
        norm.load_state_dict(_part(state, NORM))
        features = norm(features)
    with torch.inference_mode():
        upsampled = upsampler.eval()(features, image)
    steps = (slice(None, None, params[f"{name}_step"]) for name in ("channel", "row", "column"))
    yield {
        "features": upsampled[(slice(None), *steps)],
        "channel_mean": upsampled.mean(dim=(0, 2, 3)),
        "channel_std": upsampled.std(dim=(0, 2, 3), correction=0),
    }


def generated(name: str, shape: list[int]) -> Float[Tensor, "..."]:
    """The weight of a key, from its name and shape."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    value = random.standard_normal(shape).astype(np.float32)
    last = name.rpartition(".")[2]
    if last == "range_temp":
        value = 0.5 * value
    elif last == "sigma_spatial":
        value = 1 + 0.2 * value
    elif len(shape) > 1:
        value = value / math.sqrt(math.prod(shape[1:]))
    else:
        value = 1 + 0.02 * value if last == "weight" else 0.02 * value
    return torch.as_tensor(value, dtype=torch.float32)


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
