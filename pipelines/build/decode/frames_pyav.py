"""Pictures of a segment by PyAV, in one thread, decoding no more than the wanted ones need.

- `exact`: the pictures on screen at the moments. Pictures that no other needs are skipped unless wanted, and so is what follows the last wanted one
  of a group.
- `fast`: of the pictures that others need the nearest to each of those, when it is within 0.1 s of it; else as `exact`.
- `keyframes`: the key pictures nearest to the moments.
- A file that does not state its pictures' times, or states them wrongly, is decoded from end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.build.decode.container import PREROLL_S, Segment, open_media, picture_stream, seek
from pipelines.build.decode.frame_selection import frame_at, nearest, packet_ranges, select_frames
from pipelines.build.decode.packet_scan import BAD_SHARE, FrameTimes
from pipelines.manifest import RejectedClip

NEAR_S = 0.1
_SAME_S = 1e-6

Timed = tuple[float, Any]


def read_frames(
    path: Path, segment: Segment, times: FrameTimes, moments_s: np.ndarray, mode: str, convert: Callable[[Any], Any]
) -> list[Timed]:
    """The pictures of a segment, each once, in the order of their times: (seconds from the start of the clip, converted picture).

    Args:
        path: the file.
        segment, times: the stretch, and what its packets say of their pictures.
        moments_s: float64 [frames], rising, seconds from the start of the clip.
        mode: exact, fast or keyframes.
        convert: makes of an `av.VideoFrame` what is kept.

    Raises:
        RejectedClip, av.error.FFmpegError: the pictures do not decode.
    """
    import av

    if times.stamps:
        shown = np.flatnonzero(np.logical_and(times.shown, times.keys) if mode == "keyframes" else times.shown)
        times_s = np.asarray(times.times_s)
        wanted = shown[(nearest if mode == "keyframes" else frame_at)(times_s[shown], moments_s)]
        wanted = np.unique(wanted)[np.argsort(times_s[np.unique(wanted)])]
        for tolerance_s in (NEAR_S, _SAME_S) if mode == "fast" else (_SAME_S,):
            try:
                frames = _planned(path, segment, times, wanted.tolist(), mode, exactly=tolerance_s == _SAME_S)
                taken = [
                    (time_s, convert(frame))
                    for time_s, frame in select_frames(frames, times_s[wanted].tolist(), by_nearness=True)
                ]
            except av.error.FFmpegError:
                continue
            if (
                len(taken) == len(wanted)
                and np.abs(np.array([time_s for time_s, _ in taken]) - times_s[wanted]).max() <= tolerance_s
            ):
                return _distinct(taken)
    for ahead_s in PREROLL_S:
        frames = _everything(path, segment, segment.start_s - ahead_s)
        taken = [
            (time_s, convert(frame)) for time_s, frame in select_frames(frames, moments_s.tolist(), by_nearness=False)
        ]
        if ahead_s >= segment.start_s or (taken and taken[0][0] <= moments_s[0]):
            break
    return _distinct(taken)


def _distinct(taken: list[Timed]) -> list[Timed]:
    return [item for number, item in enumerate(taken) if not number or item[0] > taken[number - 1][0]]


def _planned(
    path: Path, segment: Segment, times: FrameTimes, wanted: list[int], mode: str, exactly: bool
) -> Iterator[Timed]:
    """Decode the runs of packets that the wanted pictures need; key pictures alone need nothing else."""
    parts = (
        [range(number, number + 1) for number in sorted(wanted)]
        if mode == "keyframes"
        else packet_ranges(times.times_s, times.keys, wanted)
    )
    numbers = {times.stamps[number]: number for part in parts for number in part}
    firsts, last, chosen = {part.start for part in parts[1:]}, parts[-1].stop - 1, set(wanted) if exactly else set()
    with open_media(path) as container:  # opened anew: only so does every container come back to where the scan began
        stream = picture_stream(container)
        codec, unit_s = stream.codec_context, float(stream.time_base)
        seek(container, segment, times.from_s)

        def timed(frames: list[Any]) -> Iterator[Timed]:
            for frame in frames:
                if frame.pts is not None:
                    yield segment.clip_time_s(frame.pts, unit_s), frame

        for packet in container.demux(stream):
            number = numbers.get(packet.pts) if packet.size else None
            if number is None:
                continue
            if number in firsts:
                yield from timed(codec.decode(None))
                codec.flush_buffers()
            codec.skip_frame = "DEFAULT" if number in chosen else "NONREF"
            yield from timed(packet.decode())
            if number == last:
                break
        yield from timed(codec.decode(None))


def _everything(path: Path, segment: Segment, from_s: float) -> Iterator[Timed]:
    """Decode all pictures from a time of the file on, tolerating a few that do not decode."""
    import av

    with open_media(path) as container:
        stream = picture_stream(container)
        seek(container, segment, from_s)
        packets = bad = 0
        for packet in container.demux(stream):
            packets += 1
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                bad += 1
                continue
            for frame in frames:
                if frame.time is not None:
                    yield frame.time - segment.zero_s - segment.start_s, frame
        if bad > BAD_SHARE * packets:
            raise RejectedClip("unreadable", f"{bad} of {packets} pictures do not decode")
