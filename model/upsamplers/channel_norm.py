"""Layer normalization over the channels of a feature map."""

from jaxtyping import Float
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """LayerNorm over channels, with the biased variance."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalized features."""
        return self.norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
