"""Decodes frames of a segment with decord, in one thread; modes `exact` and `keyframes`. See `make bench`.

decord counts frames from keyframes, and so returns frames of other times if a file has no index (MPEG-TS), hides frames
(MP4 cut by copying), has open or very short GOPs, or another codec than those below. PyAV decodes such files, and those
that decord does not read. Limit: decord reads all packets of a file first, so a short segment of a long file costs much
more than with PyAV.
"""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from pipelines.build.decode.container import Segment, open_media, time_base_s, video_stream
from pipelines.build.decode.frame_selection import frame_at, nearest
from pipelines.build.decode.orientation import display_matrix, is_rotation
from pipelines.build.decode.packet_scan import FrameTimes

_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_CODECS = {"h264", "vp8", "vp9", "av1"}
_MIN_GOP = 8  # frames; a seek to a keyframe may find the next one if that is decoded before this one is shown
_ROUNDING_S = 2e-3  # Matroska rounds to 1 ms


def read_frames(
    path: Path,
    segment: Segment,
    packets: FrameTimes,
    sample_times_s: np.ndarray,
    mode: str,
    convert: Callable[[av.VideoFrame], np.ndarray],
) -> list[tuple[float, np.ndarray]] | None:
    """As `frames_pyav.read_frames`; None if decord does not read the file, or would return frames of other times."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    with open_media(path) as container:
        stream = video_stream(container)
        is_supported = container.format.name in _CONTAINERS and stream.codec_context.name in _CODECS
        is_only_one = len(container.streams.video) == 1  # of several, decord takes the largest
        if not is_supported or not is_only_one or not _has_closed_gops(packets) or not _is_upright(container, stream):
            return None
        # the times of decord start at the first frame of the file
        offset_s = segment.clip_time_s(stream.start_time or 0, time_base_s(stream))
    try:
        reader = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1)
        times_s = reader.get_frame_timestamp(list(range(len(reader))))[:, 0] + offset_s
        scanned_s, end_s = np.sort(packets.times_s), segment.duration_s - _ROUNDING_S
        expected_s = scanned_s[scanned_s < end_s]
        counted_s = times_s[(times_s > scanned_s[0] - _ROUNDING_S) & (times_s < end_s)]
        if len(counted_s) != len(expected_s) or np.abs(counted_s - expected_s).max(initial=0) > _ROUNDING_S:
            return None
        candidates = np.asarray(reader.get_key_indices()) if mode == "keyframes" else np.arange(len(reader))
        inside = candidates[times_s[candidates] < segment.duration_s]
        selected = np.unique(inside[(nearest if mode == "keyframes" else frame_at)(times_s[inside], sample_times_s)])
        frames = reader.get_batch(selected.tolist()).asnumpy()
    except (decord.DECORDError, IndexError, ValueError):
        return None
    return [
        (float(times_s[index]), convert(av.VideoFrame.from_ndarray(frame)))
        for index, frame in zip(selected, frames, strict=True)
    ]


def _has_closed_gops(packets: FrameTimes) -> bool:
    """Whether all frames are shown, none before its keyframe, and keyframes are far apart or all frames are."""
    keys = np.asarray(packets.keys)
    times_s = np.asarray(packets.times_s)
    keys_s = times_s[keys]
    return bool(
        packets.stamps
        and all(packets.shown)
        and (times_s >= keys_s[np.cumsum(keys) - 1]).all()
        and (keys.all() or np.diff(np.flatnonzero(keys)).min(initial=_MIN_GOP) >= _MIN_GOP)
    )


def _is_upright(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether frames are not mirrored, or rotated by another angle than decord does."""
    first = next(container.decode(stream), None)
    return first is not None and is_rotation(display_matrix(first))
