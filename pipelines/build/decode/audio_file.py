"""Reads the audio of a whole file at its own sample rate, as the build reads that of a clip."""

from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from av.container import InputContainer

from configs.schema import DecodeConfig
from pipelines.build.decode.audio_track import check_amplitude, energies, loudest_channel
from pipelines.build.decode.container import DURATION_IN_DATA, segment_of
from pipelines.build.decode.ffmpeg_fallback import read_media
from pipelines.build.decode.packet_scan import scan
from pipelines.manifest import Clip, RejectedClip
from pipelines.stated_size import missing_bytes

_TRUNCATED_S = 0.5
_PLAIN_SUBTYPES = ("PCM_16", "PCM_24", "PCM_32", "FLOAT")
_SETTINGS = DecodeConfig(min_duration_s=0.0, max_duration_s=3600.0)


def read_audio(path: Path, channel: str = "first") -> tuple[np.ndarray, int]:
    """One channel of an audio or video file, float32 [S] for at most an hour, and its sample rate in Hz.

    Args:
        path: of the file.
        channel: `first` or `loudest`, as decode.channel.

    Raises:
        RejectedClip: it is missing, truncated or does not decode, or its audio is empty or not finite.
        StorageError: its file system does not answer.
    """
    if path.suffix.lower() == ".wav" and (plain := _read_plain_wav(path, channel)):
        return plain
    # A clip with an image needs no video; the image is not read here.
    clip, read = Clip(id="audio", media=path.name, image=path.name), partial(_read, channel=channel)
    return read_media(clip, path.parent, _SETTINGS, read)[0]


def _read_plain_wav(path: Path, channel: str) -> tuple[np.ndarray, int] | None:
    """The same samples of an ordinary file, in 0.5 instead of 5 ms for 10 s; None for one that needs a closer look."""
    try:
        with soundfile.SoundFile(path) as file:
            is_plain = file.subtype in _PLAIN_SUBTYPES and file.channels <= 2 and missing_bytes(path) == 0
            if not is_plain or not 0 < file.frames <= _SETTINGS.max_duration_s * file.samplerate:
                return None
            tracks = file.read(dtype="float32", always_2d=True).T
            samples = tracks[loudest_channel(energies(tracks)) if channel == "loudest" else 0]
    except (soundfile.LibsndfileError, OSError):
        return None
    return (check_amplitude(np.ascontiguousarray(samples)), file.samplerate) if len(samples) == file.frames else None


def _read(container: InputContainer, media: Path, clip: Clip, channel: str) -> tuple[np.ndarray, int]:
    segment = segment_of(container, clip, _SETTINGS)
    samples, rate_hz = scan(media, container, segment, with_frames=False, channel=channel).audio.samples()
    states_duration = segment.end_is_stated and container.format.name not in DURATION_IN_DATA
    end_s = len(samples) / rate_hz
    if states_duration and not container.streams.video and end_s < segment.duration_s - _TRUNCATED_S:
        raise RejectedClip("unreadable", f"truncated: the audio ends at {end_s:.2f} s of {segment.duration_s:.2f} s")
    return samples, rate_hz
