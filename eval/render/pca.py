"""Joint PCA of the image and audio features of a video, fitted on a part of it, as three color channels."""

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


class JointPca(NamedTuple):
    """The three main directions of features of length 1, and the range of each.

    Attributes:
        mean: float32 [D].
        components: float32 [D, 3].
        low, high: float32 [3], shown as 0 and 1.
    """

    mean: Tensor
    components: Tensor
    low: Tensor
    high: Tensor

    def colors(self, features: Float[Tensor, "N D *cells"]) -> Float[np.ndarray, "N 3 *cells"]:
        """Colors of features, 0 to 1 for most."""
        vectors = _directions(features.movedim(1, -1))
        values = ((vectors - self.mean) @ self.components - self.low) / (self.high - self.low).clamp(min=1e-6)
        return values.movedim(-1, 1).float().cpu().numpy()


@torch.inference_mode()
def fit_pca(model: DenseAV, video: Video) -> JointPca:
    """Fit to frames and audio windows from the whole video; both sides count alike."""
    sides = [side for side in (_image_sample(model, video), _audio_sample(model, video)) if len(side)]
    mean = torch.stack([side.mean(dim=0) for side in sides]).mean(dim=0)
    covariance = torch.stack([(side - mean).T @ (side - mean) / len(side) for side in sides]).mean(dim=0)
    count = min(3, len(mean))
    main = torch.linalg.eigh(covariance).eigenvectors.flip(-1)[:, :count]
    main = main * torch.sign(main.sum(dim=0) + 1e-12)  # the sign of an eigenvector is arbitrary
    components = torch.nn.functional.pad(main, (0, 3 - count))
    values = [(side - mean) @ components for side in sides]
    low = torch.stack([value.quantile(_EDGE, dim=0) for value in values]).amin(dim=0)
    high = torch.stack([value.quantile(1 - _EDGE, dim=0) for value in values]).amax(dim=0)
    return JointPca(mean, components, low, high)


def _directions(vectors: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def _image_sample(model: DenseAV, video: Video) -> Float[Tensor, "N D"]:
    """Features of cells of frames that are spread over the video."""
    parts = []
    for _, frame in video.frames(max_fps=_FRAMES / max(video.duration_s, 1e-3)):
        cells = encode_frames(model, [frame]).dense.flatten(1, 2).flatten(2)[0].T
        parts.append(_directions(cells[:: max(1, len(cells) // _CELLS)]))
    return torch.cat(parts) if parts else torch.zeros(0, 0)


def _audio_sample(model: DenseAV, video: Video) -> Float[Tensor, "N D"]:
    """Features of the valid steps of windows that are spread over the video."""
    inputs = model.inputs
    every = max(1, round(video.duration_s / inputs.clip_duration_s / _WINDOWS))
    parts = []
    for number, block in enumerate(video.audio_blocks(inputs.sample_rate_hz, inputs.samples)):
        if number % every == 0:
            features = encode_block(model, block)
            parts.append(_directions(features.dense.flatten(1, 2)[0].T[features.mask[0]]))
    return torch.cat(parts) if parts else torch.zeros(0, 0)
