"""Exponential moving average (EMA) of the weights; it is evaluated and exported instead of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.training.dtensor import local_shard, shard_like


class ModelEma:
    """Exponential moving average of the parameters that learn; frozen parameters and buffers are used as they are.

    The decay of step n is min(decay, (1 + n) / (10 + n)), so that the random initial weights lose their influence
    early.

    Args:
        model: on its device; the parameters that require a gradient now are averaged, starting from their current
            values.
        decay: final decay.

    Source: warm-up of the decay as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._means = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average with the weights after `step` finished steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._local_shards(model), 1 - decay)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The state dict of the model with averaged parameters; buffers are those of the model."""
        return {**model.state_dict(), **self._means}

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Continue from what `weights` returned."""
        for name, mean in self._means.items():
            mean.copy_(shard_like(weights[name], mean))

    @contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """Inside this block the model has the averaged weights."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        means, parameters = self._local_shards(model)
        copies = [p.clone() for p in parameters]
        torch._foreach_copy_(parameters, means)
        torch._foreach_copy_(means, copies)

    def _local_shards(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """The means and the parameters they belong to."""
        parameters = dict(model.named_parameters())
        own = [local_shard(parameters[name].detach()) for name in self._means]
        return [local_shard(mean) for mean in self._means.values()], own
