"""Read saved implicit upsamplers of FeatUp: the network of one image and the projection back to the features.

Source: reference 4.1.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from model.convert.strict import check_weights
from model.upsamplers.implicit import implicit_upsampler

_COMPONENTS, _MEAN, _SINGULAR_VALUES = "components_", "mean_", "singular_values_"


class ImplicitWeights(NamedTuple):
    """Weights of an implicit upsampler.

    Attributes:
        channels: width of the network, D.
        frequencies, has_color: of the Fourier features.
        network: of model.upsamplers.implicit.implicit_upsampler.
        components, mean: of the projection back; None: the network gives the features themselves.
    """

    channels: int
    frequencies: int
    has_color: bool
    network: dict[str, Tensor]
    components: Float[Tensor, "D C"] | None
    mean: Float[Tensor, "C"] | None


def is_implicit(content: Any) -> bool:
    """Whether the content of a file is a saved implicit upsampler."""
    return isinstance(content, Mapping) and set(content) == {"model", "unprojector"}


def implicit_weights(content: Mapping[str, Any]) -> ImplicitWeights:
    """The weights of a saved implicit upsampler; components may be stored transposed.

    Raises:
        ValueError: missing or unexpected names, or other shapes.
    """
    network, projection = (_state(content, part) for part in ("model", "unprojector"))
    biases, last = network.get("1.biases"), network.get("10.weight")
    if biases is None or biases.ndim != 3 or last is None:
        raise ValueError("model: no 1.biases [2, 2 or 5, F] or no 10.weight [D, D, 1, 1]")
    channels, frequencies, has_color = len(last), biases.shape[2], biases.shape[1] == 5
    check_weights(network, _expected(channels, frequencies, has_color))
    if not projection:
        return ImplicitWeights(channels, frequencies, has_color, network, None, None)
    mean, components = projection.get(_MEAN, last.new_empty(0)), projection.get(_COMPONENTS, last.new_empty(0))
    if components.shape == (len(mean), channels) != (channels, len(mean)):
        components = components.T
    expected = {
        _COMPONENTS: mean.new_empty(channels, len(mean)),
        _MEAN: mean,
        _SINGULAR_VALUES: mean.new_empty(channels),
    }
    check_weights(projection | {_COMPONENTS: components} if components.numel() else projection, expected)
    return ImplicitWeights(channels, frequencies, has_color, network, components, mean)


def _state(content: Mapping[str, Any], part: str) -> dict[str, Tensor]:
    state = content[part]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{part}: {type(state).__name__}, allowed is a state dict of tensors")
    return dict(state)


def _expected(channels: int, frequencies: int, has_color: bool) -> dict[str, Tensor]:
    with torch.device("meta"):
        return implicit_upsampler(channels, frequencies, has_color).state_dict()
