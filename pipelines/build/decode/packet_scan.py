"""Reads the packets of a segment once: decodes the audio, and records the presentation times of the video frames.

These times determine which frames are selected, before any of them is decoded (frame_selection.py).
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer

from pipelines.build.decode.audio_track import AudioTrack
from pipelines.build.decode.container import PREROLL_S, Segment, open_media, seek, time_base_s, video_stream
from pipelines.manifest import RejectedClip

_MAX_PACKET_S = 1.0
_INTERLEAVING_S = 10.0  # how far apart in the file audio and video of one moment may be
_JUMP_S, _JUMP_PACKETS = 0.25, 4  # a clock that goes back by more than both belongs to another recording
MAX_BAD_FRACTION = 0.1  # of the packets; fewer packets that do not decode leave a gap, as in any player


@dataclass
class FrameTimes:
    """Presentation times of the video packets of a segment, in decoding order, starting with a keyframe.

    Attributes:
        from_s: time of the file from which packets were read.
        stamps: presentation times in units of the stream; empty if a packet has none, or two the same.
        times_s: the same in seconds from the start of the clip.
        keys: which packets are keyframes.
        shown: which frames are shown; an edit list may hide frames that others need.
        end_s: presentation time of the last frame of the segment; its end if times are missing.
    """

    from_s: float
    stamps: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    end_s: float = 0.0
    _all_stated: bool = True

    def add(self, packet: av.Packet, segment: Segment, unit_s: float) -> None:
        """Record a packet of a stream with time base `unit_s`."""
        if packet.pts is None:
            self._all_stated = False
        elif self.keys or packet.is_keyframe:
            self.stamps.append(packet.pts)
            self.times_s.append(segment.clip_time_s(packet.pts, unit_s))
            self.keys.append(packet.is_keyframe)
            self.shown.append(not packet.is_discard)

    def close(self, segment: Segment) -> None:
        """Set `end_s`, and discard times that cannot be used; call it after the last packet."""
        shown = zip(self.times_s, self.shown, strict=True)
        inside = [time_s for time_s, is_shown in shown if is_shown and time_s < segment.duration_s]
        self.end_s = max(inside, default=0.0) if self._all_stated else segment.duration_s
        if not self._all_stated or not inside or len(set(self.stamps)) < len(self.stamps):
            self.stamps.clear()


def jumps_back(before_s: float, now_s: float, duration_s: float) -> bool:
    """Whether the clock of a stream goes back between two packets or frames, the second of them of this duration."""
    return now_s < before_s - max(_JUMP_S, _JUMP_PACKETS * duration_s)


class Scan(NamedTuple):
    """The result of a scan; times are seconds from the start of the clip.

    Attributes:
        audio: the decoded audio.
        frames: the presentation times of the frames.
        file_end_s: end of the file by decoding time, infinite if it was not reached; or of the recording, if another
            one follows it in the same file.
        content_end_s: end of the last packet of the segment by presentation time.
        is_joined: whether another recording follows.
    """

    audio: AudioTrack
    frames: FrameTimes
    file_end_s: float
    content_end_s: float
    is_joined: bool


def scan(path: Path, container: InputContainer, segment: Segment, with_frames: bool, channel: str = "first") -> Scan:
    """Read a segment once; again from further ahead if the seek lands after its target.

    A stream ends where its clock goes back. Recordings that were joined to one file each start their clock anew, so the
    frames of one would have the times of the audio of the other.

    Args:
        path: the media file.
        container: the same file, open, at its start.
        segment: the segment.
        with_frames: whether to record the times of the frames.
        channel: of the audio, as decode.channel.

    Raises:
        RejectedClip: many of the audio packets do not decode.
        av.error.FFmpegError: the container is broken.
    """
    for preroll_s in PREROLL_S:
        from_s = segment.start_s - preroll_s
        with contextlib.nullcontext(container) if preroll_s == PREROLL_S[0] else open_media(path) as opened:
            seek(opened, segment, from_s)
            video = video_stream(opened) if with_frames else None
            result = _scan_from_here(opened, segment, FrameTimes(from_s), video, channel)
        if from_s <= 0 or not with_frames or min(result.frames.times_s, default=1.0) <= 0:
            break
    return result


def _scan_from_here(
    container: InputContainer, segment: Segment, frames: FrameTimes, video: av.VideoStream | None, channel: str
) -> Scan:
    audio_stream = container.streams.audio[0]
    streams = [stream for stream in (audio_stream, video) if stream]
    units_s = {stream.index: time_base_s(stream) for stream in streams}
    audio = AudioTrack(segment, time_base_s(audio_stream), channel)
    packets = bad = 0
    last_s, content_end_s, file_end_s, is_video_done = 0.0, -math.inf, math.inf, video is None
    clocks_s, jumped = dict.fromkeys(units_s, -math.inf), set[int]()
    for packet in demux_first_recording(container, streams):
        index = packet.stream.index  # `packet.stream_index` is 0 in the packets that end each stream
        unit_s = units_s[index]
        duration_s = (packet.duration or 0) * unit_s
        stamp = packet.pts if packet.dts is None else packet.dts
        # comparisons with nan are false
        time_s = math.nan if stamp is None else segment.clip_time_s(stamp, unit_s)
        if packet.dts is not None:
            if jumps_back(clocks_s[index], time_s, duration_s):
                jumped.add(index)
                file_end_s = min(file_end_s, last_s)
            clocks_s[index] = time_s
        is_after = index in jumped or time_s >= min(segment.duration_s, file_end_s)
        if not is_after and packet.pts is not None:
            content_end_s = max(content_end_s, segment.clip_time_s(packet.pts, unit_s) + duration_s)
        if packet.stream is video:
            is_video_done = is_after
            if packet.size and not is_after:
                frames.add(packet, segment, unit_s)
        elif not (audio.is_full or is_after or time_s < -PREROLL_S[0] - _MAX_PACKET_S):
            packets += 1
            try:
                for frame in audio_stream.decode(packet):
                    audio.add(frame)
            except av.error.FFmpegError:
                bad += 1
        is_done = (audio.is_full and is_video_done) or len(jumped) == len(streams)
        if is_done or time_s > segment.duration_s + _INTERLEAVING_S:
            break
        last_s = max(last_s, time_s + duration_s)
    else:
        file_end_s = min(file_end_s, last_s)
    if bad > MAX_BAD_FRACTION * packets:
        raise RejectedClip("unreadable", f"{bad} of {packets} audio packets do not decode")
    frames.close(segment)
    return Scan(audio, frames, file_end_s, content_end_s, bool(jumped))


def demux_first_recording(
    container: InputContainer, streams: list[av.AudioStream | av.VideoStream]
) -> Iterator[av.Packet]:
    """The packets of the first recording of a file; FFmpeg does not read a second one in Ogg."""
    with contextlib.suppress(av.error.PatchWelcomeError):
        yield from container.demux(streams)
