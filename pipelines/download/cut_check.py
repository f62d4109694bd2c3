"""Checks that the file of a clip is complete: ffmpeg ends a cut early, with exit code 0, when the video breaks off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream

TOLERANCE_S = 0.5


class CutDurations(NamedTuple):
    """Where the streams of a file end, in seconds from its start; 0 for a stream that does not exist."""

    video_s: float
    audio_s: float


def read_durations(path: Path) -> CutDurations:
    """The ends of the first video and audio stream, from their packets.

    Raises:
        ValueError: the file does not open or has no video.
    """
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("the file has no video stream")
            streams = [container.streams.video[0], *container.streams.audio[:1]]
            ends = _ends_s(container, streams)
    except av.FFmpegError as error:
        raise ValueError(f"the file cannot be read ({error.strerror or error})") from None
    return CutDurations(ends[0], ends[1] if len(ends) > 1 else 0.0)


def _ends_s(container: InputContainer, streams: list[Stream]) -> list[float]:
    ends = dict.fromkeys((stream.index for stream in streams), 0.0)
    for packet in container.demux(streams):
        if packet.pts is not None and packet.time_base is not None:
            end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            ends[packet.stream_index] = max(ends[packet.stream_index], end_s)
    return list(ends.values())


def is_complete(cut: CutDurations, expected: CutDurations) -> bool:
    """Whether the streams of a cut end at most TOLERANCE_S before or after the expected ends.

    Args:
        cut: the streams of the file.
        expected: how long the streams have to be; audio 0: any.
    """
    has_video = abs(cut.video_s - expected.video_s) <= TOLERANCE_S
    return has_video and (not expected.audio_s or not cut.audio_s or cut.audio_s >= expected.audio_s - TOLERANCE_S)
