"""Batch normalisation over the global batch: the same numbers and gradients on any number of ranks, on any device and backend.

torch's SyncBatchNorm needs a GPU; the tiny encoders also train in several CPU processes. Limits: every rank has equally many rows, as the
stream gives them; chunks of a batch encoded one after the other are normalised each on its own.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.distributed import all_reduce_sum, world_size
from model.dtypes import upcast_half


class SyncBatchNorm(nn.BatchNorm1d):
    """Normalise each channel by the mean and variance over rows and cells of all ranks; by running means in evaluation.

    One process alone takes torch's own path. The backward pass sums what all ranks send, as model.distributed.all_gather_batch does. Running means stay as
    they were where a batch would make them no numbers: the step of such a batch may be left out, but it has been looked at by then.
    """

    def forward(self, x: Float[Tensor, "N C *cells"]) -> Float[Tensor, "N C *cells"]:
        """Normalise over every axis but the second."""
        running = [self.running_mean, self.running_var] if self.training else []
        before = [mean.clone() for mean in running]
        normal = self._forward(x)
        for mean, last in zip(running, before, strict=True):
            mean.data.copy_(
                torch.where(mean.isfinite(), mean, last)
            )  # .data: autograd has noted the running means, but does not use them
        return normal

    def _forward(self, x: Float[Tensor, "N C *cells"]) -> Float[Tensor, "N C *cells"]:
        ranks = world_size()
        if not self.training or ranks == 1:
            return super().forward(x.flatten(2)).view_as(x)
        rows = upcast_half(x.flatten(2))  # also under autocast: squares of half-precision numbers overflow
        variance, mean = torch.var_mean(rows, dim=(0, 2), correction=0)
        mean, mean_square, variance = all_reduce_sum(torch.stack([mean, mean.square(), variance])) / ranks
        variance = variance + (mean_square - mean.square()).clamp(min=0)  # within ranks, and between them
        with torch.no_grad():
            count = ranks * rows.shape[0] * rows.shape[2]
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / max(1, count - 1), self.momentum)
        normal = (rows - mean[:, None]) * (variance[:, None] + self.eps).rsqrt()
        return (normal * self.weight[:, None] + self.bias[:, None]).to(x.dtype).view_as(x)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of cells will do."""
