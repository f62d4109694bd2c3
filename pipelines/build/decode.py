"""One clip of media into frames and waveform, in memory.

Frames are those on screen at the middle of equal parts of the clip, by presentation time; picture and sound share one clock, so that a flash and a
click made together stay together, also in files whose streams do not start at once. Sound is the file's first channel, as in the reference.
Decoder: PyAV, one thread, every frame. Limits: the first picture and the first sound stream of a file; a sound that changes its rate is turned away.
Which pixels come out can depend on the version of FFmpeg in the PyAV wheel, whose version each clip carries.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.schema import DecodeConfig
from pipelines.manifest import Clip, RejectedClip, StorageFault

# Containers that hold their own pictures and sound; playlists, which name other files and addresses, are not among them.
_CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,rm,wav,aiff,flac,mp3,aac"
_PREROLL_S = 0.5  # sound is decoded from this much before a segment: lossy codecs need a few packets to settle
_SAME_TIME_S = 0.02  # time stamps of neighbouring sound frames may be off by rounding (1 ms in Matroska); a larger step is a gap
_CUT_OFF_S = 0.5  # a file is cut off when both its streams end this much before the end its header states
_ROUNDING_S = 1e-6
_SILENT_PEAK = 1e-3
_FULL_SCALE = {"u8": 128.0, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63, "flt": 1.0, "dbl": 1.0}


@dataclass(frozen=True)
class DecodedClip:
    """What a shard stores of a clip, before it is encoded.

    Attributes:
        frames: uint8 [H_px, W_px, 3] each, RGB; at least one, and no two neighbours alike.
        frame_times_s: when each frame came on screen, in seconds from the start of the clip; below 0 where that was before the clip began.
        waveform: float32 [S], mono, -1..1; shorter than the clip where the file's sound ends earlier.
        sample_rate_hz: its rate.
        start_s, end_s: the segment of the file, end_s being where it really ends.
        fps: frames a second of the video; 0 for a still picture.
        decoder, decoder_version: who decoded.
    """

    frames: list[np.ndarray]
    frame_times_s: list[float]
    waveform: np.ndarray
    sample_rate_hz: int
    start_s: float
    end_s: float
    fps: float
    decoder: str
    decoder_version: str


class _Segment(NamedTuple):
    """A stretch of a file: its times in seconds from the start of the file, which is at `zero_s` on the clock of its streams."""

    zero_s: float
    start_s: float
    end_s: float
    end_is_stated: bool

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


def decode_clip(clip: Clip, root: Path, settings: DecodeConfig) -> DecodedClip:
    """Decode a clip.

    Args:
        clip: a row that `pipelines.manifest.check` accepts.
        root: the folder its paths start from.
        settings: number and size of frames, sample rate, shortest and longest duration.

    Returns:
        `settings.frames_per_clip` frames, fewer where the same one is on screen at several of the moments; one for a clip with a picture of its own.

    Raises:
        RejectedClip: the clip cannot be used; the reason says why.
        StorageFault: the root is gone, or its file system does not answer.

    Differs from the reference: mono sound at another rate is resampled from exact positions in time, not from the start of the sound stream.
    """
    import av

    media = _regular_file(root, clip.media)
    still = _regular_file(root, clip.image) if clip.image else None
    try:
        with _open(media) as container:
            segment = _segment(container, clip, settings)
            waveform, sound_end_s = _read_waveform(container, segment, settings.sample_rate_hz)
        if len(waveform) < settings.min_duration_s * settings.sample_rate_hz:
            raise RejectedClip("too_short", f"{sound_end_s:.2f} s of sound in a clip of {segment.duration_s:.2f} s, wanted {settings.min_duration_s} s")
        if np.abs(waveform).max() < _SILENT_PEAK:
            raise RejectedClip("silent", f"peak {np.abs(waveform).max():.1e}")
        if still:
            frames, times_s, fps = [_read_still(still, settings.short_side_px)], [0.0], 0.0
        else:
            with _open(media) as container:
                frames, times_s, fps, picture_end_s = _read_frames(container, segment, settings)
            if segment.end_is_stated and max(sound_end_s, picture_end_s) < segment.duration_s - _CUT_OFF_S:
                raise RejectedClip("unreadable", f"cut off: {max(sound_end_s, picture_end_s):.2f} s of {segment.duration_s:.2f} s are there")
    except av.error.FFmpegError as error:
        if error.errno in _STORAGE_ERRORS:
            raise StorageFault(f"{clip.media}: {error.strerror}") from None
        raise RejectedClip("unreadable", f"{clip.media}: {error.strerror}") from None
    return DecodedClip(frames, times_s, waveform, settings.sample_rate_hz, segment.start_s, segment.end_s, fps, "pyav", av.__version__)


# What FFmpeg itself reports only of a file system or of this process; EIO it also says of broken files.
_STORAGE_ERRORS = frozenset((errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.EREMOTEIO))


def _regular_file(root: Path, name: str) -> Path:
    path = root / name
    try:
        status = path.stat()
    except OSError as error:
        if error.errno in _STORAGE_ERRORS or error.errno == errno.EIO or not root.is_dir():
            raise StorageFault(f"{path}: {error.strerror}") from None
        reason = "unreadable" if isinstance(error, PermissionError) else "missing"
        raise RejectedClip(reason, f"{name}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise RejectedClip("unreadable", f"{name} is {'a folder' if stat.S_ISDIR(status.st_mode) else 'no regular file'}")
    if not os.access(path, os.R_OK):
        raise RejectedClip("unreadable", f"{name}: no right to read it")
    if not status.st_size:
        raise RejectedClip("unreadable", f"{name} has zero bytes")
    return path


def _open(path: Path) -> Any:
    import av

    # "file:" keeps a name such as "concat:a" from being read as an address.
    return av.open(f"file:{path}", metadata_errors="replace", options={"format_whitelist": _CONTAINERS})


def _segment(container: Any, clip: Clip, settings: DecodeConfig) -> _Segment:
    if not clip.image and _picture_stream(container) is None:
        raise RejectedClip("no_video", f"{clip.media} has no picture stream")
    if not container.streams.audio:
        raise RejectedClip("no_audio", f"{clip.media} has no sound stream")
    file_end_s = container.duration / 1e6 if container.duration else math.inf
    end_s = min(clip.end_s or math.inf, clip.start_s + settings.max_duration_s, file_end_s)
    if clip.start_s >= file_end_s:
        raise RejectedClip("outside_file", f"starts at {clip.start_s:.2f} s, {clip.media} ends at {file_end_s:.2f} s")
    if end_s - clip.start_s < settings.min_duration_s:
        raise RejectedClip("too_short", f"{end_s - clip.start_s:.2f} s, wanted {settings.min_duration_s} s")
    return _Segment((container.start_time or 0) / 1e6, clip.start_s, end_s, math.isfinite(file_end_s))


def _picture_stream(container: Any) -> Any | None:
    """The first video stream that is not the cover of a record."""
    from av.stream import Disposition

    return next((stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic), None)


def _frames_from(container: Any, stream: Any, time_s: float, segment: _Segment) -> Iterator[tuple[Any, float | None]]:
    """Decoded frames of a stream, from a key frame at or before `time_s` in the file on, with their times from the start of the segment."""
    stream.thread_type = "NONE"
    if time_s > 0:
        container.seek(round((segment.zero_s + time_s) * 1e6), backward=True)
    for frame in container.decode(stream):
        yield frame, None if frame.time is None else frame.time - segment.zero_s - segment.start_s


def _read_waveform(container: Any, segment: _Segment, sample_rate_hz: int) -> tuple[np.ndarray, float]:
    """The first channel of a segment, float32 [S], and where the sound ends, in seconds from the start of the segment."""
    rate_hz, end = 0, 0
    track = np.zeros(0, dtype=np.float32)
    for frame, time_s in _frames_from(container, container.streams.audio[0], segment.start_s - _PREROLL_S, segment):
        if not rate_hz:
            rate_hz = frame.sample_rate
            track = np.zeros(round(segment.duration_s * rate_hz), dtype=np.float32)
            end = round((time_s or 0.0) * rate_hz)
        if frame.sample_rate != rate_hz:
            raise RejectedClip("unreadable", f"the sound changes from {rate_hz} Hz to {frame.sample_rate} Hz")
        if time_s is not None and abs(time_s * rate_hz - end) > _SAME_TIME_S * rate_hz:
            end = round(time_s * rate_hz)
        samples = _first_channel(frame)
        begin, end = end, end + len(samples)
        if begin >= len(track):
            break
        if end > 0:
            track[max(begin, 0) : end] = samples[max(-begin, 0) : len(track) - begin]
    if end <= 0:
        raise RejectedClip("no_audio", f"no sound between {segment.start_s:.2f} s and {segment.end_s:.2f} s")
    track = track[:end]
    return _resample(track, rate_hz, sample_rate_hz), len(track) / rate_hz


def _first_channel(frame: Any) -> np.ndarray:
    """Float32 [samples], -1..1."""
    samples = frame.to_ndarray()
    channel = samples[0] if frame.format.is_planar else samples[0, :: frame.layout.nb_channels]
    kind = frame.format.name.removesuffix("p")
    return (channel.astype(np.float32) - (128.0 if kind == "u8" else 0.0)) / _FULL_SCALE[kind]


def _resample(track: np.ndarray, rate_hz: int, wanted_hz: int) -> np.ndarray:
    if rate_hz == wanted_hz:
        return track
    from av import AudioFrame, AudioResampler

    frame = AudioFrame.from_ndarray(track[None], format="flt", layout="mono")
    frame.sample_rate = rate_hz
    resampler = AudioResampler(format="flt", layout="mono", rate=wanted_hz)
    parts = [part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))]
    resampled = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    samples = round(len(track) * wanted_hz / rate_hz)
    return np.pad(resampled[:samples], (0, max(0, samples - len(resampled))))


def _read_frames(container: Any, segment: _Segment, settings: DecodeConfig) -> tuple[list[np.ndarray], list[float], float, float]:
    """Distinct frames on screen at the chosen moments, their times, frames a second, and until when there was picture in the segment."""
    stream = _picture_stream(container)
    moments_s = [(number + 0.5) * segment.duration_s / settings.frames_per_clip for number in range(settings.frames_per_clip)]
    images: list[np.ndarray] = []
    times_s: list[float] = []
    on_screen, came_s, last_s = None, -math.inf, 0.0

    def keep() -> None:
        if times_s and times_s[-1] == came_s:
            return
        image = _image(on_screen, stream.sample_aspect_ratio, settings.short_side_px)
        if not images or not np.array_equal(image, images[-1]):
            images.append(image)
            times_s.append(came_s)

    for frame, time_s in _frames_from(container, stream, segment.start_s, segment):
        if time_s is None:
            continue
        if on_screen is None:
            on_screen, came_s = frame, time_s
        while moments_s and time_s > moments_s[0] + _ROUNDING_S:
            moments_s.pop(0)
            keep()
        on_screen, came_s, last_s = frame, time_s, time_s
        if not moments_s:
            break
    if on_screen is None:
        raise RejectedClip("no_video", f"no picture between {segment.start_s:.2f} s and {segment.end_s:.2f} s")
    if moments_s:
        keep()
    return images, times_s, float(stream.average_rate or 0), last_s


def _image(frame: Any, pixel_aspect: Any, short_side_px: int) -> np.ndarray:
    """A frame as uint8 [H_px, W_px, 3]: square pixels, upright, its short side at most `short_side_px`."""
    from av.video.reformatter import Interpolation

    height, width = frame.height, frame.width * float(pixel_aspect or 1)
    scale = min(1.0, short_side_px / min(height, width))
    # Without FULL_CHR_H_INT every colour comes out 1.7 levels too dark on average; with these, 0.02 and never more than 0.5.
    exact = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
    small = frame.reformat(max(1, round(width * scale)), max(1, round(height * scale)), "rgb24", interpolation=exact, threads=1)
    return np.ascontiguousarray(np.rot90(small.to_ndarray(), frame.rotation // 90))


def _read_still(path: Path, short_side_px: int) -> np.ndarray:
    """A picture file as uint8 [H_px, W_px, 3], upright, its short side at most `short_side_px`."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            image = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RejectedClip("unreadable", f"picture {path.name}: {error}") from None
    scale = min(1.0, short_side_px / min(image.size))
    if scale < 1:
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC)
    return np.asarray(image)
