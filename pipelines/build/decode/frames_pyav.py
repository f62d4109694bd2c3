"""Decodes frames of a segment with PyAV, in one thread, and no more packets than needed.

- `exact`: the frames on screen at the sample times. Non-reference frames are skipped unless selected, and so are those
  after the last selected one of a GOP.
- `fast`: the reference frame nearest to each of those, if it is within 0.1 s of it; otherwise as `exact`.
- `keyframes`: the keyframes nearest to the sample times.
- A file that does not state presentation times, or wrong ones, is decoded from end to end.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from pipelines.build.decode.container import PREROLL_S, Segment, open_media, seek, time_base_s, video_stream
from pipelines.build.decode.frame_selection import frame_at, nearest, packet_ranges, select_frames
from pipelines.build.decode.packet_scan import MAX_BAD_FRACTION, FrameTimes, jumps_back
from pipelines.manifest import RejectedClip

FAST_TOLERANCE_S = 0.1
_EXACT_TOLERANCE_S = 1e-6


def read_frames(
    path: Path,
    segment: Segment,
    packets: FrameTimes,
    sample_times_s: np.ndarray,
    mode: str,
    convert: Callable[[av.VideoFrame], np.ndarray],
) -> list[tuple[float, np.ndarray]]:
    """Decode the frames of a segment at given sample times.

    Args:
        path: the media file.
        segment: the segment.
        packets: the presentation times of its frames.
        sample_times_s: float64 [frames], increasing, seconds from the start of the clip.
        mode: exact, fast or keyframes.
        convert: converts the selected frames.

    Returns:
        (presentation time in seconds from the start of the clip, converted frame), each frame once, in increasing time.

    Raises:
        RejectedClip, av.error.FFmpegError: the frames do not decode.
    """
    if packets.stamps:
        shown_keys = np.logical_and(packets.shown, packets.keys)
        mode = "exact" if mode == "keyframes" and not shown_keys.any() else mode
        shown = np.flatnonzero(shown_keys if mode == "keyframes" else packets.shown)
        times_s = np.asarray(packets.times_s)
        selected = np.unique(shown[(nearest if mode == "keyframes" else frame_at)(times_s[shown], sample_times_s)])
        selected = selected[np.argsort(times_s[selected])]
        for exactly in (False, True) if mode == "fast" else (True,):
            try:
                frames = _decode_selected(path, segment, packets, selected.tolist(), mode, exactly)
                nearest_frames = select_frames(frames, times_s[selected].tolist(), by_nearness=True)
                decoded = [(time_s, convert(frame)) for time_s, frame in nearest_frames]
            except av.error.FFmpegError:
                continue
            tolerance_s = _EXACT_TOLERANCE_S if exactly else FAST_TOLERANCE_S
            decoded_s = np.array([time_s for time_s, _ in decoded])
            if len(decoded) == len(selected) and np.abs(decoded_s - times_s[selected]).max() <= tolerance_s:
                return _distinct(decoded)
    for preroll_s in PREROLL_S:
        frames = _decode_all(path, segment, segment.start_s - preroll_s)
        frames_on_screen = select_frames(frames, sample_times_s.tolist(), by_nearness=False)
        decoded = [(time_s, convert(frame)) for time_s, frame in frames_on_screen]
        if preroll_s >= segment.start_s or (decoded and decoded[0][0] <= sample_times_s[0]):
            break
    return _distinct(decoded)


def _distinct(frames: list[tuple[float, np.ndarray]]) -> list[tuple[float, np.ndarray]]:
    return [frame for index, frame in enumerate(frames) if not index or frame[0] > frames[index - 1][0]]


def _decode_selected(
    path: Path, segment: Segment, packets: FrameTimes, selected: list[int], mode: str, exactly: bool
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decode the packets that the selected frames need; keyframes need no others.

    Args:
        exactly: decode selected frames that are not reference frames too.
    """
    ranges = (
        [range(index, index + 1) for index in sorted(selected)]
        if mode == "keyframes"
        else packet_ranges(packets.times_s, packets.keys, selected)
    )
    indices = {packets.stamps[index]: index for part in ranges for index in part}
    starts, last, exact = {part.start for part in ranges[1:]}, ranges[-1].stop - 1, set(selected) if exactly else set()
    with open_media(path) as container:  # reopened: not every container seeks back to where the scan began
        stream = video_stream(container)
        codec, unit_s = stream.codec_context, time_base_s(stream)
        seek(container, segment, packets.from_s)

        def timed(frames: list[av.VideoFrame]) -> Iterator[tuple[float, av.VideoFrame]]:
            for frame in frames:
                if frame.pts is not None:
                    yield segment.clip_time_s(frame.pts, unit_s), frame

        for packet in container.demux(stream):
            index = indices.get(packet.pts) if packet.size and packet.pts is not None else None
            if index is None:
                continue
            if index in starts:
                yield from timed(codec.decode(None))
                codec.flush_buffers()
            codec.skip_frame = "DEFAULT" if index in exact else "NONREF"
            yield from timed(packet.decode())
            if index == last:
                break
        yield from timed(codec.decode(None))


def _decode_all(path: Path, segment: Segment, from_s: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decode all frames from a time of the file to a jump back, tolerating a few packets that do not decode."""
    with open_media(path) as container:
        stream = video_stream(container)
        seek(container, segment, from_s)
        packets, bad, before_s, unit_s = 0, 0, -np.inf, time_base_s(stream)
        for packet in container.demux(stream):
            packets += 1
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                bad += 1
                continue
            for frame in frames:
                if frame.time is not None:
                    time_s = frame.time - segment.zero_s - segment.start_s
                    if jumps_back(before_s, time_s, (frame.duration or 0) * unit_s):
                        return
                    before_s = time_s
                    yield time_s, frame
        if bad > MAX_BAD_FRACTION * packets:
            raise RejectedClip("unreadable", f"{bad} of {packets} video packets do not decode")
