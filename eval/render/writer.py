"""Writes a video as MP4 that browsers play: H.264 (yuv420p) and AAC, the index in front, whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from jaxtyping import UInt8

from configs.atomic_write import temporary_path
from eval.inference.video_reader import VideoReader
from eval.render.sound import sound_packets

_TICKS_PER_S = 90000
_BT709 = 1  # in the H.264 standard: of primaries, transfer and matrix
# Quality 20 is close to the source; veryfast costs a tenth of the encoders of ViT-S/8. A key frame every 2 s at 25 fps.
_OPTIONS = {"preset": "veryfast", "crf": "20", "g": "50"}


class VideoWriter:
    """An MP4 file that appears under its name when its `with` block ends without an error.

    Args:
        out: the file; a file of that name is replaced.
        sound: a media file whose audio is taken; None: no audio.
        fps: nominal frame rate; each picture has its own time.
        duration_s: end of the last picture.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """

    def __init__(self, out: Path, sound: VideoReader | None, fps: float, duration_s: float) -> None:
        self._out, self._temporary = out, temporary_path(out, str(os.getpid()))
        self._sound_source, self._fps, self._duration_s = sound, fps, duration_s
        self._container: OutputContainer | None = None
        self._sound: Iterator[tuple[float, list[av.Packet]]] = iter(())
        self._waiting_sound: tuple[float, list[av.Packet]] | None = None
        self._reformatter = VideoReformatter()
        self._waiting: tuple[int, av.VideoFrame] | None = None

    def __enter__(self) -> "VideoWriter":
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._temporary.touch()  # a clear error for a folder that cannot be written to
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._container is not None:
                with contextlib.suppress(av.error.FFmpegError):  # closing writes, too, after a full disk
                    self._container.close()
            self._temporary.unlink(missing_ok=True)

    def write(self, picture: UInt8[np.ndarray, "H_px W_px 3"], time_s: float) -> None:
        """Add a picture, which is shown until the next one, the last one until `duration_s`.

        Args:
            picture: RGB, all of the size of the first; a side of an odd length is extended by one pixel.
            time_s: later than that of the one before; that of the first is 0.
        """
        padded = np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")
        if self._container is None:
            self._open(padded.shape[0], padded.shape[1])
        frame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        start = round(time_s * _TICKS_PER_S)
        self._encode_waiting(start)
        self._waiting = start, frame

    def _open(self, height_px: int, width_px: int) -> None:
        self._container = av.open(f"file:{self._temporary}", "w", format="mp4", options={"movflags": "+faststart"})
        video = self._container.add_stream(
            "libx264", rate=Fraction(self._fps).limit_denominator(1001), options=_OPTIONS
        )
        video.width, video.height, video.pix_fmt = width_px, height_px, "yuv420p"
        video.codec_context.time_base = Fraction(1, _TICKS_PER_S)
        video.codec_context.colorspace = video.codec_context.color_primaries = video.codec_context.color_trc = _BT709
        video.codec_context.color_range = ColorRange.MPEG
        self._video = video
        if self._sound_source is not None:
            self._sound = sound_packets(self._sound_source, self._container)
            self._waiting_sound = next(self._sound)

    def _encode_waiting(self, end: int) -> None:
        """Encode the picture that waits for its end, and the sound up to it."""
        if self._waiting is None or self._container is None:
            return
        start, frame = self._waiting
        self._waiting = None
        frame.pts, frame.time_base, frame.duration = start, Fraction(1, _TICKS_PER_S), end - start
        self._container.mux(self._video.encode(frame))
        self._add_sound(end / _TICKS_PER_S)

    def _add_sound(self, end_s: float) -> None:
        """Add the sound up to a time, so that the muxer keeps little of either stream in memory."""
        while self._container is not None and self._waiting_sound and self._waiting_sound[0] <= end_s:
            for packet in self._waiting_sound[1]:
                self._container.mux(packet)
            self._waiting_sound = next(self._sound, None)

    def _finish(self) -> None:
        assert self._container is not None and self._waiting is not None, "no picture was written"
        self._encode_waiting(max(self._waiting[0] + 1, round(self._duration_s * _TICKS_PER_S)))
        self._container.mux(self._video.encode(None))
        self._add_sound(float("inf"))
        container, self._container = self._container, None
        container.close()
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())
        self._temporary.replace(self._out)
