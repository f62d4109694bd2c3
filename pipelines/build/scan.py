"""One pass over the packets of a segment: the sound is decoded on the way, of the pictures only the times are noted.

From the times follows which pictures are wanted, before a single one is decoded (`choose.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.build.media import Segment, picture_stream, seek
from pipelines.build.sound import PREROLL_S, SoundTrack
from pipelines.manifest import RejectedClip

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
    """

    stamps: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    end_s: float = 0.0


@dataclass
class Scan:
    """What one pass found: the sound, the pictures' times, and where the file ends when that was reached (seconds from the start of the clip)."""

    sound: SoundTrack
    pictures: PictureTimes
    file_end_s: float


def scan(container: Any, segment: Segment, with_pictures: bool) -> Scan:
    """Read a segment once.

    Raises:
        RejectedClip: much of the sound does not decode.
        av.error.FFmpegError: the container is broken.
    """
    # A seek can land behind its target where a file has no index (MPEG-TS): then from further ahead.
    for ahead_s in (PREROLL_S, 10.0, math.inf):
        from_s = segment.start_s - ahead_s
        seek(container, segment, from_s)
        found = _scan_from_here(container, segment, with_pictures)
        if from_s <= 0 or not with_pictures or (found.pictures.times_s and min(found.pictures.times_s) <= 0):
            break
    return found


def _scan_from_here(container: Any, segment: Segment, with_pictures: bool) -> Scan:
    import av

    video, audio = picture_stream(container) if with_pictures else None, container.streams.audio[0]
    for stream in filter(None, (video, audio)):
        stream.thread_type = "NONE"
    sound, pictures = SoundTrack(segment), PictureTimes()
    packets, bad, has_all_times, file_end_s = 0, 0, True, math.inf
    last_s = 0.0
    for packet in container.demux([stream for stream in (video, audio) if stream]):
        stamp = packet.dts if packet.dts is not None else packet.pts
        time_s = None if stamp is None else segment.clip_time_s(stamp, packet.time_base)
        if time_s is not None:
            last_s = max(last_s, time_s + float((packet.duration or 0) * packet.time_base))
            if time_s > segment.duration_s + _INTERLEAVING_S:
                break
        if packet.stream is audio:
            if sound.is_full or (time_s is not None and not -PREROLL_S - 1 < time_s < segment.duration_s):
                continue
            packets += 1
            try:
                for frame in packet.decode():
                    sound.add(frame)
            except av.error.InvalidDataError:
                bad += 1
        elif packet.size and (packet.is_keyframe or pictures.stamps or not has_all_times) and not (time_s is not None and time_s >= segment.duration_s):
            if packet.pts is None:
                has_all_times = False
                continue
            pictures.stamps.append(packet.pts)
            pictures.times_s.append(segment.clip_time_s(packet.pts, packet.time_base))
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
