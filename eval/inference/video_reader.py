"""Reads the frames and the audio of a user's media file in order, with flat memory.

Times are seconds from the start of the file, by presentation time, so that a flash and a click made together stay
together, whatever the frame rate, start offsets, edit lists or B-frames. Frames are upright RGB with square pixels. The
audio is the channel that training takes from videos: the loudest one (decode.channel=loudest). Of several recordings
that were joined to one file the first is read; of several streams of a kind, the first. A file that PyAV cannot open is
transcoded by the ffmpeg program into a temporary file, at most an hour of it.
"""

import math
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import Float, UInt8

from configs.errors import CommandFailed, UsageError
from configs.schema import DecodeConfig
from eval.inference.audio_stream import decoded_frames, loudest_channel_of, placed_chunks, resampled_blocks
from eval.inference.media_survey import survey
from pipelines.build.decode.audio_track import MAX_CHANNELS
from pipelines.build.decode.container import (
    STORAGE_ERRORS,
    UnsupportedMedia,
    open_media,
    regular_file,
    time_base_s,
    video_stream,
)
from pipelines.build.decode.ffmpeg_fallback import transcode
from pipelines.build.decode.orientation import display_matrix, upright
from pipelines.build.decode.packet_scan import MAX_BAD_FRACTION, demux_first_recording, jumps_back
from pipelines.manifest import Clip, RejectedClip, StorageError
from pipelines.stated_size import missing_bytes

MAX_PIXELS = 1 << 26  # 8192 x 8192
LONG_SIDE_PX = 1920
_TOLERATED_BYTES = 4096  # writers that forget to pad a chunk are off by one
_TRANSCODED_S = 3600.0
_RATE_TOLERANCE = 0.1  # of a frame, for timestamps that are rounded to 1 ms
# Exact colors, as pipelines.build.decode.clip.FrameConverter.
_EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


class VideoReader:
    """A video or audio file, open for reading; a context manager.

    Args:
        path: the file.
        max_pixels: largest frame that is decoded, width times height.
        max_duration_s: longest file that is accepted.
        long_side_px: frames with a longer side are scaled down to it.

    Attributes:
        path: the file, as given.
        media: the file that is read; another one than `path` if the ffmpeg program transcoded it.
        width_px, height_px: size of the frames, rotation and pixel aspect ratio applied; 0 without video.
        fps: mean frame rate; 0 without video.
        duration_s: end of the last packet of video or audio.
        video_end_s, audio_end_s: the same of one stream; 0 if there is none.
        num_frames: frames of the video, an estimate for damaged files.
        has_video: a frame decodes.
        has_audio: audio decodes.
        zero_s: time of the start of the file on the clock of its streams.
        audio_is_plain: see Survey.

    Raises:
        UsageError: the file does not exist, is not media, is truncated or over a limit, or has no frame and no audio.
        CommandFailed: the file system does not answer.
    """

    def __init__(
        self,
        path: str | Path,
        max_pixels: int = MAX_PIXELS,
        max_duration_s: int | float = math.inf,
        long_side_px: int = LONG_SIDE_PX,
    ) -> None:
        self.path, self._max_pixels = Path(path), max_pixels
        self.width_px = self.height_px = 0
        self._size_px = (0, 0)  # of a frame before it is turned upright
        self._channel: int | None = None
        self._resources = ExitStack()
        try:
            with _one_line_errors(self.path):
                self.media = self._readable()
                self._survey(max_duration_s, long_side_px)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove temporary files."""
        self._resources.close()

    def frames(self, max_fps: int | float | None = None) -> Iterator[tuple[float, UInt8[np.ndarray, "H_px W_px 3"]]]:
        """Decode the frames in order of presentation; each call starts anew.

        Args:
            max_fps: frames are left out where there are more per second; None: all are decoded.

        Yields:
            (seconds, 0 or more and increasing; RGB, uint8). Nothing without video.

        Raises:
            UsageError: many packets do not decode.
        """
        if not self.has_video:
            return
        reformatter, slot = VideoReformatter(), -1
        with _one_line_errors(self.path):
            for time_s, frame in self._decoded_frames():
                if max_fps is not None:
                    if math.floor(time_s * max_fps + _RATE_TOLERANCE) <= slot:
                        continue
                    slot = math.floor(time_s * max_fps + _RATE_TOLERANCE)
                rgb = reformatter.reformat(frame, *self._size_px, "rgb24", interpolation=_EXACT, threads=1)
                yield time_s, np.ascontiguousarray(upright(rgb.to_ndarray(), self._matrix))

    def audio_blocks(self, rate_hz: int, samples: int) -> Iterator[Float[np.ndarray, "S"]]:
        """Decode the audio from time 0 in blocks, one channel; each call starts anew.

        Args:
            rate_hz: sample rate of the blocks.
            samples: length of a block.

        Yields:
            float32 [samples], -1 to 1; the last block may be shorter. Nothing without audio.

        Raises:
            UsageError: many packets do not decode, the sample rate changes, or samples are not finite or far above 1.
        """
        if not self.has_audio:
            return
        with _one_line_errors(self.path):
            if self._channel is None:
                self._channel = loudest_channel_of(self.audio_chunks())
            yield from resampled_blocks(self.audio_chunks(), self._channel, rate_hz, samples)

    def audio_chunks(self, channels: int = MAX_CHANNELS) -> Iterator[tuple[Float[np.ndarray, "channels S"], int]]:
        """Decode the audio from time 0 at its own rate, as placed_chunks; its errors are those of audio_blocks."""
        with _one_line_errors(self.path), self.open() as container:
            yield from placed_chunks(container, self.zero_s, self._end_s, channels)

    def open(self) -> InputContainer:
        """Open the file that is read, at its start."""
        return open_media(self.media, self._has_stated_size)

    def _readable(self) -> Path:
        """The file itself, or a transcoded copy if PyAV cannot open it."""
        media = regular_file(self.path.parent, self.path.name)
        missing = missing_bytes(media)
        if (missing or 0) > _TOLERATED_BYTES:
            raise RejectedClip("unreadable", f"truncated: {missing} bytes shorter than its header states")
        self._has_stated_size = missing is not None
        try:
            with open_media(media, self._has_stated_size) as container:
                for stream in (*container.streams.video[:1], *container.streams.audio[:1]):
                    if stream.codec_context is None:
                        raise UnsupportedMedia(f"no decoder for its {stream.type}")
            return media
        except UnsupportedMedia:
            scratch = self._resources.enter_context(tempfile.TemporaryDirectory())
            copy = Path(scratch) / "transcoded.mkv"
            settings = DecodeConfig(short_side_px=1080, max_duration_s=_TRANSCODED_S, cpu_limit_s=_TRANSCODED_S)
            try:
                transcode(media, Clip(id="media", media=media.name), settings, copy)
            except RejectedClip:  # it may have audio alone
                transcode(media, Clip(id="media", media=media.name, image=media.name), settings, copy)
            self._has_stated_size = True
            return copy

    def _survey(self, max_duration_s: int | float, long_side_px: int) -> None:
        """Set the attributes. Raises RejectedClip: the file cannot be used; UsageError: it is over a limit."""
        with self.open() as container:
            video = _find_video(container)
            self.zero_s = (container.start_time or 0) / 1e6
            stated_s = (container.duration or 0) / 1e6
            stated_fps = float(video.average_rate or 0) if video else 0.0
            if video:
                self._check_pixels(video.width, video.height)
            ends = survey(self.media, container, video, self.zero_s)
        self.has_video = video is not None and self._read_size(long_side_px)
        self.has_audio = self._has_audio()
        if not (self.has_video or self.has_audio):
            raise RejectedClip("no_video", "neither a frame nor audio can be decoded")
        self.video_end_s = ends.video_end_s if self.has_video else 0.0
        self.audio_end_s = ends.audio_end_s if self.has_audio else 0.0
        self.duration_s, self.num_frames = max(self.video_end_s, self.audio_end_s), ends.num_frames
        self.audio_is_plain = ends.audio_is_plain
        self._end_s = max(self.duration_s, stated_s)
        counted_fps = ends.num_frames / ends.video_end_s if ends.video_end_s else 0.0
        self.fps = (stated_fps or counted_fps) if self.has_video else 0.0
        if self.duration_s > max_duration_s:
            allowed = f"at most {max_duration_s:g} s are allowed"
            raise UsageError(f"{self.path} cannot be used: it lasts {self.duration_s:.0f} s; {allowed}")

    def _read_size(self, long_side_px: int) -> bool:
        """Set size and orientation by the first frame; False if no frame decodes."""
        frames = self._decoded_frames()
        try:
            _, frame = next(frames, (0.0, None))
        except RejectedClip:
            return False
        finally:
            frames.close()
        if frame is None:
            return False
        width, height = frame.width * self._pixel_aspect, frame.height
        self._check_pixels(round(width), height)
        scale = min(1.0, long_side_px / max(width, height))
        self._size_px = max(1, round(width * scale)), max(1, round(height * scale))
        self._matrix = display_matrix(frame)
        shape = upright(np.zeros((*self._size_px[::-1], 3), np.uint8), self._matrix).shape
        self.height_px, self.width_px = shape[:2]
        return True

    def _has_audio(self) -> bool:
        with self.open() as container:
            if not container.streams.audio:
                return False
            try:
                return next(decoded_frames(container, self.zero_s), None) is not None
            except RejectedClip:
                return False

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            allowed = f"at most {self._max_pixels} are allowed"
            raise UsageError(f"{self.path} cannot be used: its frames have {width} x {height} pixels; {allowed}")

    def _decoded_frames(self) -> Generator[tuple[float, av.VideoFrame], None, None]:
        """All frames with a time, up to a jump back, tolerating a few packets that do not decode."""
        with self.open() as container:
            stream = video_stream(container)
            self._pixel_aspect = float(stream.sample_aspect_ratio or 1)
            stream.codec_context.options = {"max_pixels": str(self._max_pixels)}
            packets, bad, last_s, unit_s = 0, 0, -math.inf, time_base_s(stream)
            for packet in demux_first_recording(container, [stream]):
                packets += 1
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    bad += 1
                    continue
                for frame in frames:
                    if frame.pts is None:
                        continue
                    time_s = frame.pts * unit_s - self.zero_s
                    if jumps_back(last_s, time_s, (frame.duration or 0) * unit_s):
                        return
                    if max(time_s, 0.0) > last_s:
                        last_s = max(time_s, 0.0)
                        yield last_s, frame
            if bad > MAX_BAD_FRACTION * packets:
                raise RejectedClip("unreadable", f"{bad} of {packets} video packets do not decode")


def _find_video(container: InputContainer) -> av.VideoStream | None:
    try:
        return video_stream(container)
    except RejectedClip:
        return None


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Raise the errors of reading media as UsageError or CommandFailed with the name of the file."""
    try:
        yield
    except RejectedClip as error:
        raise UsageError(f"{path} cannot be used: {error.detail or error.reason}") from None
    except UnsupportedMedia as error:
        raise UsageError(f"{path} cannot be used: {error}") from None
    except StorageError as error:
        raise CommandFailed(str(error)) from None
    except av.error.FFmpegError as error:
        if error.errno in STORAGE_ERRORS:
            raise CommandFailed(f"{path}: {error.strerror}") from None
        raise UsageError(f"{path} cannot be used: {error.strerror}") from None
