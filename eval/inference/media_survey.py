"""Reads the packets of a media file once, without decoding them: where its streams end, and whether it is complete."""

import math
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer

from pipelines.build.decode.audio_track import MAX_JITTER_S
from pipelines.build.decode.container import time_base_s
from pipelines.build.decode.packet_scan import demux_first_recording, jumps_back
from pipelines.build.decode.truncation import is_truncated
from pipelines.manifest import RejectedClip

_MAX_PRIMING_S, _MAX_OFFSET_S = 0.15, 0.05  # of the first audio packet: encoders start up to 2112 samples before 0
_TRUNCATED_S = 0.5  # a file is truncated if its streams end this much before the end that its header states


class Survey(NamedTuple):
    """Ends of the streams of a file, in seconds from its start, and the number of its video packets.

    Attributes:
        video_end_s, audio_end_s: end of the last packet; 0 without packets.
        num_frames: video packets.
        audio_is_plain: audio packets start at the start of the file, follow each other without gaps, and all of them
            are played, so that they can be copied into another file without decoding them.
    """

    video_end_s: float
    audio_end_s: float
    num_frames: int
    audio_is_plain: bool


def survey(path: Path, container: InputContainer, video: av.VideoStream | None, zero_s: float) -> Survey:
    """Read all packets of the first recording of a file; one that was joined to it ends it (see packet_scan).

    Args:
        path: the media file.
        container: the same file, open, at its start.
        video: its video stream, if it has one.
        zero_s: time of the start of the file on the clock of its streams.

    Raises:
        RejectedClip: the file is truncated.
        av.error.FFmpegError: the container is broken.
    """
    streams: list[av.VideoStream | av.AudioStream] = [*([video] if video else []), *container.streams.audio[:1]]
    units_s = {stream.index: time_base_s(stream) for stream in streams}
    clocks_s = dict.fromkeys(units_s, -math.inf)
    is_plain = True
    ends_s, counts, jumped = dict.fromkeys(units_s, 0.0), dict.fromkeys(units_s, 0), set[int]()
    for packet in demux_first_recording(container, streams):
        index, unit_s = packet.stream.index, units_s[packet.stream.index]
        duration_s = (packet.duration or 0) * unit_s
        if packet.dts is not None:
            if jumps_back(clocks_s[index], packet.dts * unit_s, duration_s):
                jumped.add(index)
                if len(jumped) == len(streams):
                    break
            clocks_s[index] = packet.dts * unit_s
        if not packet.size or index in jumped:
            continue
        stamp = packet.dts if packet.pts is None else packet.pts
        start_s = math.nan if stamp is None else stamp * unit_s - zero_s
        if packet.stream is not video:
            is_plain &= start_s < 0 if packet.is_discard else _follows(start_s, ends_s[index], counts[index] == 0)
        if packet.is_discard:
            continue
        counts[index] += 1
        if stamp is not None:
            ends_s[index] = max(ends_s[index], start_s + duration_s)
    if not jumped:
        _check_complete(path, container, [end_s for index, end_s in ends_s.items() if counts[index]])
    video_index = video.index if video else -1
    audio_end_s = max((end_s for index, end_s in ends_s.items() if index != video_index), default=0.0)
    return Survey(ends_s.get(video_index, 0.0), audio_end_s, counts.get(video_index, 0), is_plain and not jumped)


def _follows(start_s: float, end_s: float, is_first: bool) -> bool:
    """Whether an audio packet follows the one before it, or the start of the file, without a gap."""
    return -_MAX_PRIMING_S <= start_s <= _MAX_OFFSET_S if is_first else abs(start_s - end_s) <= MAX_JITTER_S


def _check_complete(path: Path, container: InputContainer, ends_s: list[float]) -> None:
    expected_s = (container.duration or 0) / 1e6 - _TRUNCATED_S
    if not ends_s or min(ends_s) >= expected_s:
        return
    truncated = is_truncated(path, container.format.name)
    if max(ends_s) < expected_s if truncated is None else truncated:
        stated_s = expected_s + _TRUNCATED_S
        raise RejectedClip("unreadable", f"truncated: a stream ends at {min(ends_s):.2f} s, not at {stated_s:.2f} s")
