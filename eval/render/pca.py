"""Joint PCA of the image and audio features of a video, fitted on a part of it, as three color channels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eval.inference.stream_maps import Video, encode_block, encode_frames
from model.denseav import DenseAV

_FRAMES, _WINDOWS = 16, 8  # that the components are fitted on
_CELLS = 256  # of a frame
_EDGE = 0.02  # fraction of the values of a component that may be beyond its colors, on either side


class Side(NamedTuple):
    """Mean and range of the features of one side, image or audio.

    Attributes:
        mean: float32 [D].
        low, high: of the components, float32 [3], shown as 0 and 1.
    """

    mean: Tensor
    low: Tensor
    high: Tensor


class JointPca(NamedTuple):
    """The three main directions of features of length 1, in which both sides vary around their own means.

    The means of image and audio features lie so far apart that they would take the first component, and leave one color
    to each side.

    Attributes:
        components: float32 [D, 3].
        image, audio: mean and range of each side; None: it has no features.
    """

    components: Tensor
    image: Side | None
    audio: Side | None

    def colors(self, features: Float[Tensor, "N D *cells"], side: Side) -> Float[np.ndarray, "N 3 *cells"]:
        """Colors of the features of one side, 0 to 1 for most."""
        values = (_directions(features.movedim(1, -1)) - side.mean) @ self.components
        scaled = (values - side.low) / (side.high - side.low).clamp(min=1e-6)
        return scaled.movedim(-1, 1).float().cpu().numpy()


@torch.inference_mode()
def fit_pca(model: DenseAV, video: Video) -> JointPca:
    """Fit to frames and audio windows from the whole video; both sides count alike."""
    return _fit(_image_sample(model, video), _audio_sample(model, video))


def fit_image_pca(features: Float[Tensor, "C H W"]) -> Float[np.ndarray, "3 H W"]:
    """Colors of the features of one image by their own principal components, 0 to 1 for most."""
    return joint_colors([features])[0]


def joint_colors(parts: Sequence[Float[Tensor, "C _ _"]]) -> list[Float[np.ndarray, "3 _ _"]]:
    """Colors of several feature maps by their joint principal components, 0 to 1 for most."""
    pca = _fit(torch.cat([_directions(part.flatten(1).T) for part in parts]), None)
    assert pca.image is not None
    return [pca.colors(part[None], pca.image)[0] for part in parts]


def _fit(images: Float[Tensor, "N D"] | None, sounds: Float[Tensor, "T D"] | None) -> JointPca:
    """Fit to directions of image features and of audio features; a side without any (None) is left out."""
    centered = [sample - sample.mean(dim=0) for sample in (images, sounds) if sample is not None]
    covariance = torch.stack([vectors.T @ vectors / len(vectors) for vectors in centered]).mean(dim=0)
    main = torch.linalg.eigh(covariance).eigenvectors.flip(-1)[:, :3]
    main = main * torch.sign(main.sum(dim=0) + 1e-12)  # the sign of an eigenvector is arbitrary
    components = torch.nn.functional.pad(main, (0, 3 - main.shape[1]))
    image, audio = (None if sample is None else _side(sample, components) for sample in (images, sounds))
    return JointPca(components, image, audio)


def _side(sample: Float[Tensor, "N D"], components: Float[Tensor, "D 3"]) -> Side:
    mean = sample.mean(dim=0)
    values = (sample - mean) @ components
    return Side(mean, values.quantile(_EDGE, dim=0), values.quantile(1 - _EDGE, dim=0))


def _directions(vectors: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def _image_sample(model: DenseAV, video: Video) -> Float[Tensor, "N D"] | None:
    """Features of cells of frames that are spread over the video."""
    parts = []
    for _, frame in video.frames(max_fps=_FRAMES / max(video.duration_s, 1e-3)):
        cells = encode_frames(model, [frame]).dense.flatten(1, 2).flatten(2)[0].T
        parts.append(_directions(cells[:: max(1, len(cells) // _CELLS)]))
    return _joined(parts)


def _audio_sample(model: DenseAV, video: Video) -> Float[Tensor, "N D"] | None:
    """Features of the valid steps of windows that are spread over the video."""
    inputs = model.inputs
    every = max(1, round(video.duration_s / inputs.clip_duration_s / _WINDOWS))
    parts = []
    for number, block in enumerate(video.audio_blocks(inputs.sample_rate_hz, inputs.samples)):
        if number % every == 0:
            features = encode_block(model, block)
            parts.append(_directions(features.dense.flatten(1, 2)[0].T[features.mask[0]]))
    return _joined(parts)


def _joined(parts: list[Tensor]) -> Float[Tensor, "N D"] | None:
    return torch.cat(parts) if any(len(part) for part in parts) else None
