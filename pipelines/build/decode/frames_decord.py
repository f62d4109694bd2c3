"""Decodes frames of a segment with decord, in one thread; modes `exact` and `keyframes`. See `make bench`.

Limits: decord reads all packets of the file first, so a short segment of a long file costs much more than with PyAV; it
selects frames other than those on screen in H.264 with open GOPs and in AVI, does not support Theora, and fails on some
narrow videos (96x64), which are then rejected as unreadable.
"""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from pipelines.build.decode.container import Segment, open_media, time_base_s, video_stream
from pipelines.build.decode.frame_selection import frame_at, nearest
from pipelines.build.decode.packet_scan import FrameTimes
from pipelines.manifest import RejectedClip


def read_frames(
    path: Path,
    segment: Segment,
    _packets: FrameTimes,
    sample_times_s: np.ndarray,
    mode: str,
    convert: Callable[[av.VideoFrame], np.ndarray],
) -> list[tuple[float, np.ndarray]]:
    """As `frames_pyav.read_frames`.

    Raises:
        RejectedClip: decord does not decode the file.
    """
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    with open_media(path) as container:
        stream = video_stream(container)
        # the times of decord start at the first frame of the file
        offset_s = segment.clip_time_s(stream.start_time or 0, time_base_s(stream))
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        times_s = reader.get_frame_timestamp(list(range(len(reader))))[:, 0] + offset_s
        candidates = np.asarray(reader.get_key_indices()) if mode == "keyframes" else np.arange(len(reader))
        inside = candidates[times_s[candidates] < segment.duration_s]
        selected = np.unique(inside[(nearest if mode == "keyframes" else frame_at)(times_s[inside], sample_times_s)])
        frames = reader.get_batch(selected.tolist()).asnumpy()
    except (decord.DECORDError, IndexError, ValueError) as error:
        raise RejectedClip("unreadable", f"{path.name}: {str(error).splitlines()[0]}") from None
    return [
        (float(times_s[index]), convert(av.VideoFrame.from_ndarray(frame)))
        for index, frame in zip(selected, frames, strict=True)
    ]
