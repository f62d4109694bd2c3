"""Published FeatUp models: a frozen encoder, its normalization and the stack, by their published names."""

from pathlib import PurePosixPath

from jaxtyping import Float
from torch import Tensor, nn

from model.convert.checkpoint_file import read_content
from model.convert.featup import FeatUpWeights, featup_weights
from model.download import download_once, hub_folder
from model.encoders.pretrained import PRETRAINED
from model.published_upsamplers import featup_backbone, featup_url
from model.upsamplers.backbones import build_backbone
from model.upsamplers.channel_norm import ChannelNorm
from model.upsamplers.jbu import Jbu


class UpsampledBackbone(nn.Module):
    """An encoder with its upsampler.

    Args:
        backbone: a normalized image [B 3 H_img W_img] to features [B C H W].
        channels: C.
        use_norm: normalize the features over channels.

    Attributes:
        model: low-resolution features [B C H W] of a normalized image.
        upsampler: the stack.
    """

    def __init__(self, backbone: nn.Module, channels: int, use_norm: bool) -> None:
        super().__init__()
        self.model: nn.Module = nn.Sequential(backbone, ChannelNorm(channels)) if use_norm else backbone
        self.upsampler = Jbu(channels)

    def forward(self, image: Float[Tensor, "B 3 H_img W_img"]) -> Float[Tensor, "B C H_out W_out"]:
        """Features of a normalized image (mean and standard deviation of ImageNet) on 16 times the grid.

        Raises:
            ValueError: the image is not a whole number of cells, or less than 2 x 2 cells.
        """
        return self.upsampler(self.model(image), image)

    def load(self, weights: FeatUpWeights) -> None:
        """Load the upsampler and the normalization.

        Raises:
            ValueError: weights of another encoder or of the other variant.
        """
        norm = self.model[1] if isinstance(self.model, nn.Sequential) else None
        channels = self.upsampler.channels
        if weights.channels != channels:
            raise ValueError(f"weights of an encoder with {weights.channels} channels, this one has {channels}")
        if (norm is None) != (weights.norm is None):
            stored = "without" if weights.norm is None else "with"
            raise ValueError(f"weights of the variant {stored} normalization: use_norm={norm is not None}")
        self.upsampler.load_state_dict(weights.upsampler)
        if norm is not None and weights.norm is not None:
            norm.load_state_dict(weights.norm)


def load_featup(
    name: str, pretrained: bool = True, use_norm: bool = True, backbone_weights: str = PRETRAINED
) -> UpsampledBackbone:
    """A published FeatUp model in evaluation mode.

    Args:
        name: of model.published_upsamplers.FEATUP.
        pretrained: load the published upsampler, downloaded once into the folder of torch.hub; False: random weights.
        use_norm: the variant with normalization of the features.
        backbone_weights: of the encoder: `pretrained` (timm's cache, or the network), `random`, or a file.

    Raises:
        ValueError: no such name or variant; weights that cannot be downloaded or do not fit.
    """
    published = featup_backbone(name, use_norm)
    weights = _download(name, use_norm) if pretrained else None
    model = UpsampledBackbone(build_backbone(published, backbone_weights), published.channels, use_norm)
    if weights is not None:
        model.load(weights)
    return model.eval()


def _download(name: str, use_norm: bool) -> FeatUpWeights:
    """Both variants have the same file name, so the one without normalization has a folder of its own."""
    url = featup_url(name, use_norm)
    path = download_once(url, hub_folder() / ("" if use_norm else "no_norm") / PurePosixPath(url).name)
    content = read_content(str(path))
    stored = content.get("state_dict") if isinstance(content, dict) else None
    try:
        return featup_weights(stored or {})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
