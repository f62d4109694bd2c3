"""Terms of FeatUp's objectives, as pure functions.

Source: reference 4.1.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from model.upsamplers.downsamplers import blur

MIN_SCALE, SCALE_BIAS = 1e-4, 0.1
MIN_KERNEL = 1e-7


class UncertaintyScale(nn.Module):
    """The standard deviation that the encoder's features are expected to be off by, from these features.

    Args:
        channels: of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Conv2d(channels, 1, 1)
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.mul_(0.1)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 H W"]:
        """Standard deviations, at least 1e-4."""
        return (self.net(features) + SCALE_BIAS).exp().clamp(min=MIN_SCALE)


def reconstruction(
    output: Float[Tensor, "B C H W"], target: Float[Tensor, "B C H W"], scale: Float[Tensor, "B 1 H W"] | None
) -> Float[Tensor, ""]:
    """Negative log-likelihood of a normal distribution, without its constant; None: mean squared error."""
    squared = (output - target) ** 2
    return squared.mean() if scale is None else (squared / (2 * scale**2) + scale.log()).mean()


def total_variation(features: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Squared differences of neighbors, vertical and horizontal, summed and divided by the number of values."""
    vertical, horizontal = features.diff(dim=2), features.diff(dim=3)
    return ((vertical**2).sum() + (horizontal**2).sum()) / features.numel()


def magnitude(features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 H W"]:
    """L2 norm over channels; its gradient at zero is zero."""
    squared = (features**2).sum(dim=1, keepdim=True)
    is_zero = squared == 0
    return torch.where(is_zero, 0, torch.where(is_zero, 1, squared).sqrt())


def squared_magnitude(features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 H W"]:
    """Sum of squares over channels."""
    return (features**2).sum(dim=1, keepdim=True)


def magnitude_loss(downsampled: Float[Tensor, "B 1 H W"], target: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Mean squared difference of a downsampled magnitude from that of the encoder's features."""
    return ((downsampled - magnitude(target)) ** 2).mean()


def blur_pin(features: Float[Tensor, "B C H W"], kernel_size: int = 5, sigma: float = 1.0) -> Float[Tensor, ""]:
    """Mean squared difference from the blurred features."""
    return ((blur(features, kernel_size, sigma) - features) ** 2).mean()


def kernel_entropy(kernel: Float[Tensor, "k k"]) -> Float[Tensor, ""]:
    """Entropy of a kernel that sums to 1."""
    return -(kernel * kernel.clamp(min=MIN_KERNEL).log()).sum()


class CrfSettings(NamedTuple):
    """Widths and weights of the conditional random field; distances are fractions of the image."""

    alpha: float = 0.1
    beta: float = 0.15
    gamma: float = 0.005
    w1: float = 10.0
    w2: float = 3.0
    shift: float = 0.0


def sampled_crf(
    guidance: Float[Tensor, "B 3 H W"],
    features: Float[Tensor, "B C H W"],
    rows: Int[Tensor, "N"],
    columns: Int[Tensor, "N"],
    settings: CrfSettings = CrfSettings(),  # noqa: B008
) -> Float[Tensor, ""]:
    """Differences of features of sampled pixels, weighted by how close the pixels are in place and color.

    Args:
        guidance: the image.
        rows, columns: of the sampled pixels.
        settings: of the weights.
    """
    size = torch.tensor(guidance.shape[2:], device=guidance.device, dtype=guidance.dtype)
    places = torch.stack([rows, columns], dim=1) / size
    near = _squared_distances(places[None])
    similar = _squared_distances(guidance[:, :, rows, columns].transpose(1, 2))
    weight = settings.w1 * (-near / (2 * settings.alpha) - similar / (2 * settings.beta)).exp()
    weight = weight + settings.w2 * (-near / (2 * settings.gamma)).exp() - settings.shift
    return (_squared_distances(features[:, :, rows, columns].transpose(1, 2)) * weight).mean()


def _squared_distances(points: Float[Tensor, "B N D"]) -> Float[Tensor, "B N N"]:
    return ((points[:, :, None] - points[:, None]) ** 2).sum(dim=-1)


def random_projection(raw: Float[Tensor, "B C P"]) -> Float[Tensor, "B C P"]:
    """A drawn projection with columns of length 1."""
    return functional.normalize(raw, dim=1)
