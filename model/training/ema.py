"""A running mean of the weights: steadier than the weights of any one step, and evaluated and exported in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.training.dtensor import local_shard, shard_like


class ModelEma:
    """Exponential moving average of the parameters that learn; everything else in the model counts as it is.

    After step n the mean keeps min(decay, (1 + n) / (10 + n)) of itself, so that the random weights of the start are soon forgotten.

    Args:
        model: on its device; its parameters that require a gradient now are averaged, from their present values on.
        decay: share of itself the mean keeps in a long run.

    Source: the warm-up of the decay is that of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._means = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` finished steps."""
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._own_means(), self._of(model), 1 - keep)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The state dict of the model with means in the place of parameters; buffers are the model's own."""
        return {**model.state_dict(), **self._means}

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Go on from what `weights` gave."""
        for name, mean in self._means.items():
            mean.copy_(shard_like(weights[name], mean))

    @contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """Inside this block the model has the mean weights."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        parameters, means = self._of(model), self._own_means()
        kept = [p.clone() for p in parameters]
        torch._foreach_copy_(parameters, means)
        torch._foreach_copy_(means, kept)

    def _of(self, model: nn.Module) -> list[Tensor]:
        parameters = dict(model.named_parameters())
        return [local_shard(parameters[name].detach()) for name in self._means]

    def _own_means(self) -> list[Tensor]:
        return [local_shard(mean) for mean in self._means.values()]
