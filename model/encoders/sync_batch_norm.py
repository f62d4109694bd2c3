"""Batch normalization over the global batch, on any device and backend; values do not depend on the number of ranks.

torch's SyncBatchNorm needs a GPU; the tiny encoders also train in several CPU processes. Limits: every rank has the
same number of rows, as the loader guarantees; chunks of a batch that are encoded one after the other are normalized
separately.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.distributed import all_reduce_sum, world_size
from model.dtypes import upcast_half


class SyncBatchNorm(nn.BatchNorm1d):
    """Normalize each channel by its mean and variance over all ranks; in evaluation by running statistics.

    A single process uses torch's implementation. The backward pass sums the gradients of all ranks, as
    model.distributed.all_gather_batch does. Running statistics are not updated to non-finite values: nan_guard may skip
    the step of such a batch, but only after its forward pass.
    """

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Float[Tensor, "N C *cells"]) -> Float[Tensor, "N C *cells"]:
        """Normalize over every axis but the second."""
        running = [self.running_mean, self.running_var] if self.training else []
        before = [statistic.clone() for statistic in running]
        normal = self._forward(x)
        for statistic, previous in zip(running, before, strict=True):
            # .data: autograd tracks versions of the running statistics, but does not use them.
            statistic.data.copy_(torch.where(statistic.isfinite(), statistic, previous))
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
