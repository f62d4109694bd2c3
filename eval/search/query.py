"""Reads and encodes what a user searches with: a sound, a picture or a video."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from configs.errors import UsageError
from eval.search.codebook import FirstStage
from eval.search.encode import encode_pixels, encode_waveforms
from eval.search.media import Kind, Window, kind_of, read_windows
from model.denseav import DenseAV
from model.features import AudioFeatures, ImageFeatures
from pipelines.stream.augment import pad_or_crop, resize_center_crop

MAX_WINDOWS = 12


class Query(NamedTuple):
    """An encoded query.

    Attributes:
        path, kind: of the file.
        pixels: the picture that is searched with, uint8 RGB; None for a sound.
        waveform: the sound that is searched with, float32 at `sample_rate_hz`; None for a picture or a silent video.
        sample_rate_hz: of the waveform.
        image: features of the picture, one row; None for a sound.
        audio: features of the sound, one row for each window; None for a picture or a silent video.
        duration_s: of the file; 0 for a picture.
    """

    path: Path
    kind: Kind
    pixels: UInt8[Tensor, "3 S_px S_px"] | None
    waveform: Float[np.ndarray, "S"] | None
    sample_rate_hz: int
    image: ImageFeatures | None
    audio: AudioFeatures | None
    duration_s: float

    def image_vector(self, stage: FirstStage) -> Float[np.ndarray, "D"]:
        """The first-stage vector of the picture."""
        assert self.image is not None
        return stage.image_vectors(self.image)[0].numpy()

    def audio_vector(self, stage: FirstStage) -> Float[np.ndarray, "D"]:
        """The first-stage vector of the sound: the mean over windows, weighted by their valid audio steps."""
        assert self.audio is not None
        return (window_weights(self.audio) @ stage.audio_vectors(self.audio)).numpy()


@torch.inference_mode()
def read_query(path: Path, model: DenseAV) -> Query:
    """Read and encode a file.

    A sound, or the sound of a video, is encoded window by window, at most MAX_WINDOWS of them. The picture of a video
    is the frame at the middle of its middle window. Pictures are resized and center-cropped, as those of the index.

    Raises:
        UsageError: no such file, not media, or damaged.
    """
    kind, inputs = kind_of(path, "query"), model.inputs
    windows: list[Window] = []
    for window in read_windows(path, inputs):
        windows.append(window)
        if len(windows) == MAX_WINDOWS:
            break
    duration_s = windows[-1].end_s
    heard = [window.waveform for window in windows if window.waveform is not None]
    frame = windows[len(windows) // 2].frame
    if frame is None and not heard:
        raise UsageError(f"query={path}: it has neither a picture nor a sound")
    pixels = None if frame is None else resize_center_crop(frame, inputs.image_size_px)
    padded = [pad_or_crop(waveform, inputs.samples) for waveform in heard]
    return Query(
        path,
        kind,
        pixels,
        np.concatenate(heard) if heard else None,
        inputs.sample_rate_hz,
        None if pixels is None else encode_pixels(model, [pixels]),
        encode_waveforms(model, [one for one, _ in padded], [mask for _, mask in padded]) if heard else None,
        duration_s,
    )


def window_weights(audio: AudioFeatures) -> Float[Tensor, "W"]:
    """The weight of each window in means over a sound: its share of the valid audio steps."""
    return audio.mask.sum(dim=1) / audio.mask.sum()
