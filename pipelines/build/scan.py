"""One pass over the packets of a segment: the sound is decoded on the way, of the pictures only the times are noted.

From the times follows which pictures are wanted, before a single one is decoded (`choose.py`).
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.build.media import AHEAD_S, Segment, open_media, picture_stream, seek
from pipelines.build.sound import SoundTrack
from pipelines.manifest import RejectedClip

_LONGEST_PACKET_S = 1.0
_INTERLEAVING_S = 10.0  # how far apart in the file sound and picture of one moment may lie
BAD_SHARE = 0.1  # of the packets; fewer that do not decode leave a gap, as in any player


@dataclass
class PictureTimes:
    """What the packets of a picture stream say of their pictures, in the order of decoding, from a key picture on.

    Attributes:
        stamps: presentation times in units of the stream; empty when a packet states none, or two the same.
        times_s: the same in seconds from the start of the clip.
        keys: which are key pictures.
        shown: which are shown; an edit list can hide some that others need.
        end_s: where the last picture of the segment comes on screen.
        from_s: from which time of the file on they were read.
    """

    stamps: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    end_s: float = 0.0
    from_s: float = 0.0


@dataclass
class Scan:
    """What one pass found: the sound, the pictures' times, and where the file ends when that was reached (seconds from the start of the clip)."""

    sound: SoundTrack
    pictures: PictureTimes
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
    for ahead_s in AHEAD_S:
        from_s = segment.start_s - ahead_s
        with contextlib.nullcontext(container) if ahead_s == AHEAD_S[0] else open_media(path) as opened:
            seek(opened, segment, from_s)
            found = _scan_from_here(opened, segment, with_pictures)
        found.pictures.from_s = from_s
        if from_s <= 0 or not with_pictures or (found.pictures.times_s and min(found.pictures.times_s) <= 0):
            break
    return found


def _scan_from_here(container: Any, segment: Segment, with_pictures: bool) -> Scan:
    import av

    audio, video = container.streams.audio[0], picture_stream(container) if with_pictures else None
    streams = [stream for stream in (audio, video) if stream]
    units_s = {stream.index: float(stream.time_base) for stream in streams}
    sound, pictures = SoundTrack(segment, units_s[audio.index]), PictureTimes()
    packets, bad, has_all_times, file_end_s = 0, 0, True, math.inf
    last_s = 0.0
    for packet in container.demux(streams):
        stamp, unit_s = packet.dts if packet.dts is not None else packet.pts, units_s[packet.stream_index]
        time_s = None if stamp is None else segment.clip_time_s(stamp, unit_s)
        if time_s is not None:
            last_s = max(last_s, time_s + (packet.duration or 0) * unit_s)
            if time_s > segment.duration_s + _INTERLEAVING_S:
                break
        if packet.stream is audio:
            if sound.is_full or (time_s is not None and not -AHEAD_S[0] - _LONGEST_PACKET_S < time_s < segment.duration_s):
                continue
            packets += 1
            try:
                for frame in packet.decode():
                    sound.add(frame)
            except av.error.FFmpegError:
                bad += 1
        elif packet.size and (packet.is_keyframe or pictures.stamps or not has_all_times) and not (time_s is not None and time_s >= segment.duration_s):
            if packet.pts is None:
                has_all_times = False
                continue
            pictures.stamps.append(packet.pts)
            pictures.times_s.append(segment.clip_time_s(packet.pts, unit_s))
            pictures.keys.append(packet.is_keyframe)
            pictures.shown.append(not packet.is_discard)
        if sound.is_full and (video is None or (packet.stream is video and time_s is not None and time_s >= segment.duration_s)):
            break
    else:
        file_end_s = last_s
    if bad > BAD_SHARE * packets:
        raise RejectedClip("unreadable", f"{bad} of {packets} sound packets do not decode")
    inside = [time_s for time_s, shown in zip(pictures.times_s, pictures.shown, strict=True) if shown and time_s < segment.duration_s]
    pictures.end_s = max(inside, default=0.0)
    if not has_all_times or not inside or len(np.unique(pictures.stamps)) < len(pictures.stamps):
        pictures.stamps.clear()
    return Scan(sound, pictures, file_end_s)
