"""An image and a sound as a video, and the readers of the two."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float, UInt8
from PIL import Image

from configs.errors import UsageError
from eval.inference.video_reader import LONG_SIDE_PX, MAX_PIXELS, VideoReader
from pipelines.rgb_image import upright_rgb

FPS = 25.0
Sound = str | Path | VideoReader | tuple[Float[np.ndarray, "S"], int]


class StillVideo:
    """A video that shows one image for the duration of a sound (see eval.inference.stream_maps.Video).

    Args:
        image: uint8 RGB [H_px, W_px, 3].
        sound: with audio.
    """

    def __init__(self, image: UInt8[np.ndarray, "H_px W_px 3"], sound: VideoReader) -> None:
        self._image, self._sound = image, sound
        self.duration_s, self.has_audio, self.fps = sound.audio_end_s, True, FPS

    def frames(self, max_fps: float | None = None) -> Iterator[tuple[float, UInt8[np.ndarray, "H_px W_px 3"]]]:
        """The image again and again, as the same object."""
        fps = min(FPS, max_fps or FPS)
        for number in range(max(1, round(self.duration_s * fps))):
            yield number / fps, self._image

    def audio_blocks(self, rate_hz: int, samples: int) -> Iterator[Float[np.ndarray, "S"]]:
        """The blocks of the sound."""
        return self._sound.audio_blocks(rate_hz, samples)


def read_image(
    image: str | Path | UInt8[np.ndarray, "H_px W_px 3"], max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H_px W_px 3"]:
    """An image file or array as upright RGB, its long side at most LONG_SIDE_PX.

    Raises:
        UsageError: not an image, or one of more than `max_pixels`.
    """
    if isinstance(image, np.ndarray):
        return image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(image) as opened:
                if opened.width * opened.height > max_pixels:
                    size = f"{opened.width} x {opened.height} pixels; at most {max_pixels} are allowed"
                    raise UsageError(f"{image} cannot be used: it has {size}")
                rgb = upright_rgb(opened)
    except UsageError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"not a complete image ({error})"
        raise UsageError(f"{image} cannot be used: {reason}") from None
    rgb.thumbnail((LONG_SIDE_PX, LONG_SIDE_PX), Image.Resampling.BICUBIC)
    return np.array(rgb)


@contextmanager
def open_sound(sound: Sound) -> Iterator[VideoReader]:
    """A sound as an open VideoReader with audio.

    Args:
        sound: a file, an open reader, which is left open, or a waveform [S], -1 to 1, with its sample rate in Hz.

    Raises:
        UsageError: not media, or without audio.
    """
    if isinstance(sound, VideoReader):
        yield _with_audio(sound)
    elif isinstance(sound, tuple):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sound.wav"
            soundfile.write(path, np.asarray(sound[0], np.float32), sound[1], subtype="FLOAT")
            with VideoReader(path) as reader:
                yield _with_audio(reader)
    else:
        with VideoReader(sound) as reader:
            yield _with_audio(reader)


def _with_audio(reader: VideoReader) -> VideoReader:
    if not reader.has_audio:
        raise UsageError(f"{reader.path} cannot be used as a sound: it has no audio")
    return reader
