"""The interface of a converter, and what it returns."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from configs.schema import ModelConfig
from model.denseav import DenseAV


class Converted(NamedTuple):
    """A converted model.

    Attributes:
        model: in evaluation mode, with the stored weights.
        config: settings that build it.
        loaded: our names of the weights that were loaded.
        unused: stored names that have no counterpart in the model.
        missing: our names of weights that were not stored.
    """

    model: DenseAV
    config: ModelConfig
    loaded: list[str]
    unused: list[str]
    missing: list[str]


class Converter(Protocol):
    """A module that converts the checkpoints of one published system."""

    def recognizes(self, stored: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        """Whether a state dict and the settings stored with it belong to this system."""

    def convert(self, stored: Mapping[str, Tensor], settings: Mapping[str, Any], num_heads: int) -> Converted:
        """Build the model and load the weights.

        Args:
            stored: state dict under the system's names.
            settings: hyperparameters stored with it; empty if there are none.
            num_heads: K; 0: from the settings.

        Raises:
            ValueError: not the weights of this system, or settings that are not supported.
        """
