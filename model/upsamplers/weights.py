"""Mixing weights of an image: computed once, applied to features of any encoder, to heatmaps, and layer by layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from model.upsamplers.window import Window, window_mix


class WindowWeights(NamedTuple):
    """Weights of the cells of each output pixel's window.

    Attributes:
        window: which cells.
        values: for each of G groups of channels.
    """

    window: Window
    values: Float[Tensor, "B H_px W_px G N"]

    def apply(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H_px W_px"]:
        """Upsample features; with G groups of weights, each G-th part of the channels has its own."""
        return _mix(features, self.values, self.window)

    def apply_maps(self, maps: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N H_px W_px"]:
        """Upsample maps, which have no groups: with the mean of the weights of all groups."""
        values = self.values if self.values.shape[3] == 1 else self.values.mean(dim=3, keepdim=True)
        return _mix(maps, values, self.window)

    def apply_partial_maps(self, maps: Float[Tensor, "B G N H W"]) -> Float[Tensor, "B N H_px W_px"]:
        """Upsample maps given as G parts, one for each group of channels; equal to maps of upsampled features.

        Raises:
            ValueError: another number of groups.
        """
        groups, number = maps.shape[1:3]
        if groups != self.values.shape[3]:
            raise ValueError(f"maps of {groups} groups, weights of {self.values.shape[3]}")
        return _mix(maps.flatten(1, 2), self.values, self.window).unflatten(1, (groups, number)).sum(dim=1)


@dataclass(frozen=True)
class ChainedWeights:
    """Weights of several stages, applied one after the other, and a bilinear resize to the size asked for."""

    stages: Sequence[WindowWeights]
    size: tuple[int, int]

    def apply(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H_px W_px"]:
        """Upsample features or maps: the weights are the same for all channels."""
        for stage in self.stages:
            features = stage.apply(features)
        if tuple(features.shape[-2:]) == self.size:
            return features
        return functional.interpolate(features, self.size, mode="bilinear", align_corners=False)

    def apply_maps(self, maps: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N H_px W_px"]:
        """Upsample maps."""
        return self.apply(maps)


@dataclass(frozen=True)
class EncoderWeights:
    """Weights of a stack whose features are those of one encoder; maps do not depend on it.

    Attributes:
        chain: applied to maps.
        upsample: applied to features: normalization and mix of channels, and `chain`.
    """

    chain: ChainedWeights
    upsample: Callable[[Tensor], Tensor]

    def apply(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H_px W_px"]:
        """Upsample features of the encoder."""
        return self.upsample(features)

    def apply_maps(self, maps: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N H_px W_px"]:
        """Upsample maps."""
        return self.chain.apply(maps)


def _mix(
    features: Float[Tensor, "B C H W"], values: Float[Tensor, "B H_px W_px G N"], window: Window
) -> Float[Tensor, "B C H_px W_px"]:
    return window_mix(features.permute(0, 2, 3, 1), values, window).permute(0, 3, 1, 2)
