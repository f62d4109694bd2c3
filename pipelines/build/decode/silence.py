"""Where a silent clip has sound that is not used: in another channel or audio track. Read for such clips only."""

import contextlib
from pathlib import Path

import av
import numpy as np

from pipelines.build.decode.audio_track import AudioTrack
from pipelines.build.decode.container import PREROLL_S, Segment, open_media, seek, time_base_s

SILENT_PEAK = 1e-3  # -60 dBFS


def sound_elsewhere(path: Path, segment: Segment) -> str:
    """Which other channel or audio track of a segment is not silent.

    Returns:
        A text for the reject of the clip, which starts with "; ", or "" if there is none.
    """
    with open_media(path) as container:
        tracks = len(container.streams.audio)
    for number in range(tracks):
        loud = np.flatnonzero(_peaks(path, segment, number) >= SILENT_PEAK)
        if len(loud) and number:
            return f"; audio track {number + 1} of {tracks} has sound, but the first is used: remove the others"
        if len(loud):
            return f"; channel {loud[0] + 1} has sound: set decode.channel=loudest"
    return ""


def _peaks(path: Path, segment: Segment, number: int) -> np.ndarray:
    """Peak amplitude of each channel of an audio track."""
    with open_media(path) as container:
        seek(container, segment, segment.start_s - PREROLL_S[0])
        stream = container.streams.audio[number]
        if stream.codec_context is None:
            return np.zeros(1)
        track = AudioTrack(segment, time_base_s(stream), "loudest")
        with contextlib.suppress(av.error.FFmpegError):
            for packet in container.demux(stream):
                for frame in stream.decode(packet):
                    track.add(frame)
                if track.is_full:
                    break
    return track.peaks()
