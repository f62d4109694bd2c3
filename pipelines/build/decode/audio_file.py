"""Reads the audio of a whole file at its own sample rate, as the build reads that of a clip."""

from pathlib import Path

import numpy as np
from av.container import InputContainer

from configs.schema import DecodeConfig
from pipelines.build.decode.container import DURATION_IN_DATA, segment_of
from pipelines.build.decode.ffmpeg_fallback import read_media
from pipelines.build.decode.packet_scan import scan
from pipelines.manifest import Clip, RejectedClip

_TRUNCATED_S = 0.5
_SETTINGS = DecodeConfig(min_duration_s=0.0, max_duration_s=3600.0)


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """The first channel of an audio or video file, float32 [S] for at most an hour, and its sample rate in Hz.

    Raises:
        RejectedClip: it is missing, truncated or does not decode, or its audio is empty or not finite.
        StorageError: its file system does not answer.
    """
    # A clip with an image needs no video; the image is not read here.
    return read_media(Clip(id="audio", media=path.name, image=path.name), path.parent, _SETTINGS, _read)[0]


def _read(container: InputContainer, media: Path, clip: Clip) -> tuple[np.ndarray, int]:
    segment = segment_of(container, clip, _SETTINGS)
    samples, rate_hz = scan(media, container, segment, with_frames=False).audio.samples()
    states_duration = segment.end_is_stated and container.format.name not in DURATION_IN_DATA
    end_s = len(samples) / rate_hz
    if states_duration and not container.streams.video and end_s < segment.duration_s - _TRUNCATED_S:
        raise RejectedClip("unreadable", f"truncated: the audio ends at {end_s:.2f} s of {segment.duration_s:.2f} s")
    return samples, rate_hz
