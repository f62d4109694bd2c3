"""Windows of files: each has a sound of the model's length, the frame at its middle, or both."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from configs.errors import UsageError
from eval.inference.inputs import read_image
from eval.inference.video_reader import VideoReader
from model.inputs import InputSpec

Kind = Literal["picture", "sound", "video"]

# Of the endings that Pillow registers, those of pictures that cameras, browsers and data sets write.
PICTURE_ENDINGS = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
SOUND_ENDINGS = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma")
_FRAMES_PER_S = 4.0


class Window(NamedTuple):
    """A part of a file.

    Attributes:
        number, count: of this window, from 0, and of all windows of the file.
        start_s, end_s: in the file; 0 and 0 for a picture.
        frame_s: time of the frame.
        frame: uint8 RGB; None for a sound.
        waveform: float32, -1 to 1, at the model's rate; None for a picture or a silent video.
    """

    number: int
    count: int
    start_s: float
    end_s: float
    frame_s: float
    frame: UInt8[Tensor, "3 H_px W_px"] | None
    waveform: Float[np.ndarray, "S"] | None


def kind_of(path: Path, key: str) -> Kind:
    """What a file holds: by its content if it is a picture, else by its streams.

    Raises:
        UsageError: no such file, or none of these.
    """
    if not path.is_file():
        raise UsageError(f"{key}={path}: no such file; give a sound, a picture or a video")
    if is_picture(path):
        return "picture"
    with VideoReader(path) as reader:
        return "video" if reader.has_video else "sound"


def is_picture(path: Path) -> bool:
    """Whether Pillow recognizes a file; an animation is its first frame."""
    try:
        with Image.open(path) as image:
            return f".{(image.format or '').lower()}" in (*PICTURE_ENDINGS, ".mpo")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return path.suffix.lower() in PICTURE_ENDINGS  # a damaged picture, which read_windows describes


def read_windows(path: Path, inputs: InputSpec) -> Iterator[Window]:
    """The windows of a file in order: a picture has one, a video or sound one for each `clip_duration_s`.

    The last window ends with the file; it is left out if it is shorter than half a window and not the only one.

    Raises:
        UsageError: the file is damaged, or holds neither pictures nor sound.
    """
    if is_picture(path):
        yield Window(0, 1, 0.0, 0.0, 0.0, read_image(path), None)
        return
    with VideoReader(path) as reader:
        length_s = inputs.clip_duration_s
        count = max(1, math.floor(reader.duration_s / length_s + 0.5))
        blocks = reader.audio_blocks(inputs.sample_rate_hz, inputs.samples)
        frames = _frames_at(reader, [_middle_s(n, length_s, reader.duration_s) for n in range(count)])
        for n in range(count):
            frame_s, frame = next(frames, (0.0, None))
            start_s, waveform = n * length_s, next(blocks, None)
            end_s = min(start_s + length_s, reader.duration_s)
            yield Window(n, count, start_s, end_s, frame_s, frame, waveform)


def _middle_s(number: int, length_s: float, duration_s: float) -> float:
    return (number * length_s + min((number + 1) * length_s, duration_s)) / 2


def _frames_at(reader: VideoReader, times_s: list[float]) -> Iterator[tuple[float, UInt8[Tensor, "3 H_px W_px"]]]:
    """The frame on screen at each time, a quarter of a second exactly; the last one after the end of the video."""
    shown: tuple[float, np.ndarray] | None = None
    wanted = iter(times_s)
    time_s = next(wanted, None)
    for frame_s, pixels in reader.frames(_FRAMES_PER_S):
        while shown is not None and time_s is not None and frame_s > time_s:
            yield shown[0], _tensor(shown[1])
            time_s = next(wanted, None)
        if time_s is None:
            return
        shown = frame_s, pixels
    while shown is not None and time_s is not None:
        yield shown[0], _tensor(shown[1])
        time_s = next(wanted, None)


def _tensor(pixels: UInt8[np.ndarray, "H_px W_px 3"]) -> UInt8[Tensor, "3 H_px W_px"]:
    return torch.from_numpy(pixels).permute(2, 0, 1)
