"""From the channels of an encoder to the shared space: one projection for each branch.

A projection maps (features, class tokens or None) to the same pair with `out_channels` channels.
Source: reference 1.1.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

EPS = 1e-4


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over axis 1 of features with any number of axes."""

    def forward(self, x: Float[Tensor, "N C *cells"]) -> Float[Tensor, "N C *cells"]:
        """Normalize each cell over its channels."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ImageLinear(nn.Module):
    """Channel norm and one linear map for every patch (`image_linear`); class tokens have their own map, no norm.

    Args:
        in_channels: of the encoder.
        out_channels: of the shared space, all heads together.
        use_cls: class tokens enter the scores; otherwise their map gets no gradient, so it is frozen.
        gain: factor on the initial weights.

    Source: reference 1.1.
    """

    def __init__(self, in_channels: int, out_channels: int, use_cls: bool = False, gain: float = 1.0) -> None:
        super().__init__()
        self.norm = ChannelNorm(in_channels, eps=EPS)
        self.patch_proj = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        self.cls_proj = nn.Linear(in_channels, out_channels).requires_grad_(use_cls)
        _scale(self.patch_proj, gain)

    def forward(
        self, dense: Float[Tensor, "V C H W"], cls: Float[Tensor, "V C"] | None = None
    ) -> tuple[Float[Tensor, "V D H W"], Float[Tensor, "V D"] | None]:
        """Project patches and class tokens; None stays None."""
        return self.patch_proj(self.norm(dense)), None if cls is None else self.cls_proj(cls)


class AudioLinear(nn.Module):
    """Channel norm and one linear map for every step (`linear`). For small encoders; class tokens are dropped.

    Args:
        in_channels, out_channels, gain: see ImageLinear.
    """

    def __init__(self, in_channels: int, out_channels: int, gain: float = 1.0) -> None:
        super().__init__()
        self.norm = ChannelNorm(in_channels, eps=EPS)
        self.layer = nn.Conv1d(in_channels, out_channels, kernel_size=1)
        _scale(self.layer, gain)

    def forward(
        self,
        dense: Float[Tensor, "A C T"],
        cls: Float[Tensor, "A C"] | None = None,  # noqa: ARG002
    ) -> tuple[Float[Tensor, "A D T"], None]:
        """Project every step; T does not change."""
        return self.layer(self.norm(dense)), None


class AudioSelfAttentionPool(nn.Module):
    """Channel norm, two convolutions of stride 3, one pre-norm transformer block (`audio_sa_3_3_pool_2` in the paper).

    The encoder's class token, or else a learned one, is an extra token of the block. It takes part in the attention, so
    it shapes the dense features and learns even where scores use no class tokens.

    Args:
        in_channels: of the encoder.
        out_channels: of the shared space, all heads together; a multiple of 6, the attention heads of the block.
        has_cls: the encoder has class tokens; a learned one beside them would get no gradient, so there is none.

    Source: reference 1.1.
    """

    def __init__(self, in_channels: int, out_channels: int, has_cls: bool = False) -> None:
        super().__init__()
        self.cls_token = None if has_cls else nn.Parameter(0.02 * torch.randn(in_channels))
        self.norm = ChannelNorm(in_channels, eps=EPS)
        self.conv1 = nn.Conv1d(in_channels, out_channels, kernel_size=3, stride=3)
        self.cls_proj = nn.Linear(in_channels, out_channels)
        self.conv2 = nn.Conv1d(out_channels, out_channels, kernel_size=3, stride=3)
        self.block = nn.TransformerEncoderLayer(
            out_channels,
            nhead=6,
            dim_feedforward=4 * out_channels,
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=EPS,
            batch_first=True,
            norm_first=True,
        )

    def forward(
        self, dense: Float[Tensor, "A C T"], cls: Float[Tensor, "A C"] | None = None
    ) -> tuple[Float[Tensor, "A D T_out"], Float[Tensor, "A D"]]:
        """Project; T_out = floor(floor(T / 3) / 3), so T must be 9 or more (512 steps give 56).

        Args:
            dense: features of the encoder, frequency axis averaged away.
            cls: class tokens of the encoder; None: the learned one.
        """
        if cls is None:
            assert self.cls_token is not None, "an encoder without class tokens"
            cls = self.cls_token.expand(len(dense), -1)
        token = self.cls_proj(self.norm(cls))
        steps = self.conv2(self.conv1(self.norm(dense)))
        mixed = self.block(torch.cat([token[:, None], steps.transpose(1, 2)], dim=1))
        return mixed[:, 1:].transpose(1, 2), mixed[:, 0]


@torch.no_grad()
def _scale(layer: nn.Module, gain: float) -> None:
    for parameter in layer.parameters():
        parameter.mul_(gain)
