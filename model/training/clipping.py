"""Gradient clipping per parameter: to a fixed norm, and to a multiple of the mean of the parameter's recent norms.

Nothing is copied to the host. The recent norms are state of a phase: a new phase starts without any.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from configs.schema import OptimConfig
from model.training import dtensor

# Norms of a parameter that are needed before it is clipped by their mean.
MIN_HISTORY = 10
# Smaller means count as this, so that a parameter whose gradient was almost zero can start to learn.
MIN_MEAN_NORM = 1e-5


class GradientClipper:
    """Scales down gradients whose norm exceeds `max_norm`, or `factor` times the mean of their last `window` norms.

    Norms that are 0, NaN or infinite do not enter the mean: the first gradient of an adapter is 0, and one overflow in
    half precision would stay in the mean for `window` steps. A norm enters the mean after it is clipped to the mean, so
    a single outlier moves the mean by less than a tenth.

    Args:
        parameters: the parameters that learn in this phase, in the order of the model.
        max_norm: fixed limit.
        factor: multiple of the mean; 0: only the fixed limit.
        window: number of norms in the mean.

    Source: reference 1.5.
    Differs from the reference: its released code computes the mean but never updates it; the first steps are counted
    separately for each parameter.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], max_norm: float, factor: float = 0.0, window: int = 50
    ) -> None:
        self.parameters, self.max_norm, self.factor, self.window = list(parameters), max_norm, factor, window
        device, dtype = (self.parameters[0].device, self.parameters[0].dtype) if self.parameters else (None, None)
        self.norms: Float[Tensor, "window parameters"] = torch.zeros(
            window, len(self.parameters), device=device, dtype=dtype
        )
        self.counts: Int[Tensor, "parameters"] = torch.zeros(len(self.parameters), dtype=torch.int64, device=device)

    @torch.no_grad()
    def clip(self) -> Float[Tensor, ""]:
        """Clip the gradients in place; parameters without one are skipped.

        Returns:
            The norm of all gradients together before clipping; 0 if there are none.
        """
        gradients = {number: p.grad for number, p in enumerate(self.parameters) if p.grad is not None}
        if not gradients:
            return torch.zeros(())
        norms = dtensor.norms(list(gradients.values()))
        limits = self._limits(list(gradients), norms) if self.factor else torch.full_like(norms, self.max_norm)
        factors = (limits / (norms + 1e-12)).clamp(max=1.0)
        torch._foreach_mul_([dtensor.local_shard(gradient) for gradient in gradients.values()], list(factors.unbind()))
        return norms.square().sum().sqrt()

    def _limits(self, present: list[int], norms: Float[Tensor, "present"]) -> Float[Tensor, "present"]:
        """The limit of each norm from the previous steps; afterwards this step's norms enter the means."""
        chosen = torch.tensor(present, device=norms.device) if len(present) < len(self.parameters) else slice(None)
        window, counts = self.norms[:, chosen], self.counts[chosen]
        means = window.sum(dim=0) / counts.clamp(1, self.window)
        by_mean = torch.where(counts >= MIN_HISTORY, self.factor * means.clamp(min=MIN_MEAN_NORM), torch.inf)

        counted = norms.isfinite() & (norms > 0)
        slot = torch.arange(self.window, device=norms.device)[:, None] == counts % self.window
        self.norms[:, chosen] = torch.where(slot & counted, norms.minimum(by_mean), window)
        self.counts[chosen] = counts + counted
        return by_mean.clamp(max=self.max_norm)

    def state(self) -> dict[str, Tensor]:
        """The tensors to store in a checkpoint."""
        return {"norms": self.norms, "counts": self.counts}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned for the same parameters."""
        self.norms.copy_(state["norms"])
        self.counts.copy_(state["counts"])


def build_gradient_clipper(config: OptimConfig, model: nn.Module) -> GradientClipper:
    """Build the clipper of the parameters that require a gradient now."""
    return GradientClipper(
        (parameter for parameter in model.parameters() if parameter.requires_grad),
        config.max_grad_norm_per_param,
        config.adaptive_clip_factor,
        config.adaptive_clip_window,
    )
