"""Pictures of a segment by decord, in one thread: `exact` and `keyframes`. Beside PyAV as the second opinion, and measured against it (make bench).

Limits: decord reads the whole file's packets first, so a short segment of a long file costs much more than with PyAV; it takes other pictures than
are on screen in H.264 with open groups and in AVI, knows no Theora, and fails on some narrow videos (96x64), which are then rejected as unreadable.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.build.decode.container import Segment, open_media, picture_stream
from pipelines.build.decode.frame_selection import frame_at, nearest
from pipelines.build.decode.packet_scan import FrameTimes
from pipelines.manifest import RejectedClip

Timed = tuple[float, Any]


def read_frames(
    path: Path, segment: Segment, _times: FrameTimes, moments_s: np.ndarray, mode: str, convert: Callable[[Any], Any]
) -> list[Timed]:
    """As `frames_pyav.read_frames`.

    Raises:
        RejectedClip: decord cannot.
    """
    import av
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    with open_media(path) as container:
        stream = picture_stream(container)
        # decord counts time from the first picture of the file.
        offset_s = segment.clip_time_s(stream.start_time or 0, float(stream.time_base))
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        stamps_s = reader.get_frame_timestamp(list(range(len(reader))))[:, 0] + offset_s
        candidates = np.asarray(reader.get_key_indices()) if mode == "keyframes" else np.arange(len(reader))
        inside = candidates[stamps_s[candidates] < segment.duration_s]
        chosen = np.unique(inside[(nearest if mode == "keyframes" else frame_at)(stamps_s[inside], moments_s)])
        pictures = reader.get_batch(chosen.tolist()).asnumpy()
    except (decord.DECORDError, IndexError, ValueError) as error:
        raise RejectedClip("unreadable", f"{path.name}: {str(error).splitlines()[0]}") from None
    return [
        (float(stamps_s[at]), convert(av.VideoFrame.from_ndarray(picture)))
        for at, picture in zip(chosen, pictures, strict=True)
    ]
