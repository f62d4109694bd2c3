"""One pass over the packets of a segment: the sound is decoded on the way, of the pictures only the times are noted.

From the times follows which pictures are wanted, before a single one is decoded (`frame_selection.py`).
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.build.decode.audio_track import AudioTrack
from pipelines.build.decode.container import PREROLL_S, Segment, open_media, picture_stream, seek
from pipelines.manifest import RejectedClip

_MAX_PACKET_S = 1.0
_INTERLEAVING_S = 10.0  # how far apart in the file sound and picture of one moment may lie
BAD_SHARE = 0.1  # of the packets; fewer that do not decode leave a gap, as in any player


@dataclass
class FrameTimes:
    """What the packets of a picture stream say of their pictures, in the order of decoding, from a key picture on.

    Attributes:
        stamps: presentation times in units of the stream; empty when a packet states none, or two the same.
        times_s: the same in seconds from the start of the clip.
        keys: which are key pictures.
        shown: which are shown; an edit list can hide some that others need.
        end_s: where the last picture of the segment comes on screen; its end where no times are stated.
        from_s: from which time of the file on they were read.
    """

    from_s: float
    stamps: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    end_s: float = 0.0
    _all_stated: bool = True

    def add(self, packet: Any, segment: Segment, unit_s: float) -> None:
        if packet.pts is None:
            self._all_stated = False
        elif self.keys or packet.is_keyframe:
            self.stamps.append(packet.pts)
            self.times_s.append(segment.clip_time_s(packet.pts, unit_s))
            self.keys.append(packet.is_keyframe)
            self.shown.append(not packet.is_discard)

    def close(self, segment: Segment) -> None:
        """To be called after the last packet."""
        inside = [
            time_s
            for time_s, shown in zip(self.times_s, self.shown, strict=True)
            if shown and time_s < segment.duration_s
        ]
        self.end_s = max(inside, default=0.0) if self._all_stated else segment.duration_s
        if not self._all_stated or not inside or len(set(self.stamps)) < len(self.stamps):
            self.stamps.clear()


@dataclass
class Scan:
    """What one pass found: the sound, the pictures' times, and where the file ends when that was reached (seconds from the start of the clip)."""

    sound: AudioTrack
    pictures: FrameTimes
    file_end_s: float


def scan(path: Path, container: Any, segment: Segment, with_pictures: bool) -> Scan:
    """Read a segment once; more often, each time from further ahead, where a seek lands behind its target.

    Args:
        path: the file.
        container: the same, open, at its start.
        segment: the stretch.
        with_pictures: whether the times of its pictures are wanted.

    Raises:
        RejectedClip: much of the sound does not decode.
        av.error.FFmpegError: the container is broken.
    """
    for ahead_s in PREROLL_S:
        from_s = segment.start_s - ahead_s
        with contextlib.nullcontext(container) if ahead_s == PREROLL_S[0] else open_media(path) as opened:
            seek(opened, segment, from_s)
            found = _scan_from_here(
                opened, segment, FrameTimes(from_s), picture_stream(opened) if with_pictures else None
            )
        if from_s <= 0 or not with_pictures or min(found.pictures.times_s, default=1.0) <= 0:
            break
    return found


def _scan_from_here(container: Any, segment: Segment, pictures: FrameTimes, video: Any | None) -> Scan:
    audio = container.streams.audio[0]
    streams = [stream for stream in (audio, video) if stream]
    units_s = {stream.index: float(stream.time_base) for stream in streams}
    sound = AudioTrack(segment, units_s[audio.index])
    packets = bad = 0
    last_s, file_end_s, pictures_done = 0.0, math.inf, video is None
    for packet in container.demux(streams):
        unit_s = units_s[packet.stream_index]
        stamp = packet.pts if packet.dts is None else packet.dts
        time_s = (
            math.nan if stamp is None else segment.clip_time_s(stamp, unit_s)
        )  # no comparison holds for an unknown time
        is_behind = time_s >= segment.duration_s
        if packet.stream is video:
            pictures_done = is_behind
            if packet.size and not is_behind:
                pictures.add(packet, segment, unit_s)
        elif not (sound.is_full or is_behind or time_s < -PREROLL_S[0] - _MAX_PACKET_S):
            packets += 1
            bad += not _decode_into(sound, packet)
        if (sound.is_full and pictures_done) or time_s > segment.duration_s + _INTERLEAVING_S:
            break
        last_s = max(last_s, time_s + (packet.duration or 0) * unit_s)
    else:
        file_end_s = last_s
    if bad > BAD_SHARE * packets:
        raise RejectedClip("unreadable", f"{bad} of {packets} sound packets do not decode")
    pictures.close(segment)
    return Scan(sound, pictures, file_end_s)


def _decode_into(sound: AudioTrack, packet: Any) -> bool:
    """Whether a packet decodes."""
    import av

    try:
        for frame in packet.decode():
            sound.add(frame)
    except av.error.FFmpegError:
        return False
    return True
