"""One clip of media into frames and waveform, in memory.

Frames are those on screen at the middle of equal parts of the clip, by presentation time; picture and sound share one clock, so that a flash and a
click made together stay together, also in files whose streams do not start at once. Reading order: container.py (open, which stretch), packet_scan.py (one pass:
audio_track.py, and the pictures' times), frame_selection.py (which pictures, which packets), frames_pyav.py and frames_decord.py (decode those), ffmpeg_fallback.py (what they
do not open).
Limits: the first picture and the first sound stream of a file; a sound that changes its rate is turned away. Which pixels come out can depend on the
version of FFmpeg in the decoder's wheel, which each clip carries.
"""

from __future__ import annotations

import dataclasses
import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import DecodeConfig
from pipelines.build.decode import frames_decord, frames_pyav
from pipelines.build.decode.container import (
    STORAGE_ERRORS,
    UnsupportedMedia,
    missing_bytes,
    open_media,
    picture_stream,
    regular_file,
    segment_of,
)
from pipelines.build.decode.ffmpeg_fallback import transcode
from pipelines.build.decode.frame_selection import sample_times
from pipelines.build.decode.packet_scan import scan
from pipelines.manifest import Clip, RejectedClip, StorageError

_CUT_OFF_S = 0.5  # a file is cut off when its streams end this much before the end its header states
_TOLERATED_BYTES = 4096  # 0.13 s of 16 kHz PCM; writers that forget to pad a chunk are off by one
_GUESSED_DURATION = {"mp3", "aac"}  # containers whose duration is a guess from the bit rate
_SILENT_PEAK = 1e-3
_STATIC_LEVELS = 2.0  # of 255; codecs move the parts of a still picture by less


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
        StorageError: the root is gone, or its file system does not answer.

    Differs from the reference: mono sound at another rate is resampled from exact positions in time, not from the start of the sound stream.
    """
    import av

    media = regular_file(root, clip.media)
    still = regular_file(root, clip.image) if clip.image else None
    if (missing := missing_bytes(media)) > _TOLERATED_BYTES:
        raise RejectedClip("unreadable", f"cut off: {clip.media} lacks {missing} bytes of what its header states")
    try:
        with open_media(media) as container:
            return _decode(container, media, still, clip, settings)
    except UnsupportedMedia:
        with tempfile.TemporaryDirectory() as scratch:
            rewritten = Path(scratch) / "rewritten.mkv"
            version = transcode(media, clip, settings, rewritten)
            with open_media(rewritten) as container:
                decoded = _decode(
                    container, rewritten, still, dataclasses.replace(clip, start_s=0.0, end_s=0.0), settings
                )
        return dataclasses.replace(
            decoded, start_s=clip.start_s, end_s=clip.start_s + decoded.end_s, decoder="ffmpeg", decoder_version=version
        )
    except av.error.FFmpegError as error:
        if error.errno in STORAGE_ERRORS:
            raise StorageError(f"{clip.media}: {error.strerror}") from None
        raise RejectedClip("unreadable", f"{clip.media}: {error.strerror}") from None


def _decode(container: Any, media: Path, still: Path | None, clip: Clip, settings: DecodeConfig) -> DecodedClip:
    segment = segment_of(container, clip, settings)
    found = scan(media, container, segment, with_pictures=still is None)
    if not segment.end_is_stated:
        segment = segment.cut_to(found.file_end_s, clip, settings)
    waveform, sound_end_s = found.sound.waveform(settings.sample_rate_hz)
    picture_end_s = 0.0 if still else found.pictures.end_s
    if len(waveform) < settings.min_duration_s * settings.sample_rate_hz:
        raise RejectedClip(
            "too_short",
            f"{sound_end_s:.2f} s of sound in a clip of {segment.duration_s:.2f} s, wanted {settings.min_duration_s} s",
        )
    if (
        segment.end_is_stated
        and container.format.name not in _GUESSED_DURATION
        and max(sound_end_s, picture_end_s) < segment.duration_s - _CUT_OFF_S
    ):
        raise RejectedClip(
            "unreadable", f"cut off: {max(sound_end_s, picture_end_s):.2f} s of {segment.duration_s:.2f} s are there"
        )
    peak = np.abs(waveform).max()
    if peak < _SILENT_PEAK:
        raise RejectedClip("silent", f"peak {peak:.1e}")
    if still:
        frames, times_s, fps = [_read_still(still, settings.short_side_px)], [0.0], 0.0
    else:
        stream = picture_stream(container)
        fps = float(stream.average_rate or 0)
        convert = FrameConverter(stream.sample_aspect_ratio, settings.short_side_px)
        moments_s = sample_times(segment.duration_s, settings.frames_per_clip)
        read_frames = {"pyav": frames_pyav.read_frames, "decord": frames_decord.read_frames}[settings.decoder]
        pictures = read_frames(media, segment, found.pictures, moments_s, settings.mode, convert)
        if not pictures:
            raise RejectedClip("no_video", f"no picture between {segment.start_s:.2f} s and {segment.end_s:.2f} s")
        distinct = [
            item
            for number, item in enumerate(pictures)
            if not number or not np.array_equal(item[1], pictures[number - 1][1])
        ]
        times_s, frames = [time_s for time_s, _ in distinct], [image for _, image in distinct]
        if (
            not settings.keep_static
            and len(moments_s) > 1
            and (len(pictures) > 1 or settings.mode != "keyframes")
            and _is_static(frames)
        ):
            raise RejectedClip("static", "nothing moves between its frames")
    return DecodedClip(
        frames,
        times_s,
        waveform,
        settings.sample_rate_hz,
        segment.start_s,
        segment.end_s,
        fps,
        settings.decoder,
        _version(settings.decoder),
    )


def _version(decoder: str) -> str:
    return importlib.import_module({"pyav": "av"}.get(decoder, decoder)).__version__


def _is_static(frames: list[np.ndarray]) -> bool:
    """Whether no part of the picture, an eighth of its sides, changes in any frame."""
    parts = [_parts(frame) for frame in frames]
    return all(part.shape == parts[0].shape and np.abs(part - parts[0]).max() < _STATIC_LEVELS for part in parts[1:])


def _parts(frame: np.ndarray) -> np.ndarray:
    """Mean colours of 8 x 8 parts, float [8, 8, 3]; of the frame itself where it is smaller."""
    rows, columns = (np.arange(min(8, side)) * side // min(8, side) for side in frame.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(frame.astype(np.float32), rows, axis=0), columns, axis=1)
    return sums / (np.diff([*rows, frame.shape[0]])[:, None, None] * np.diff([*columns, frame.shape[1]])[None, :, None])


class FrameConverter:
    """Makes of decoded frames uint8 [H_px, W_px, 3]: square pixels, upright, the short side at most `short_side_px`."""

    def __init__(self, pixel_aspect: Any, short_side_px: int) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._pixel_aspect, self._short_side_px = float(pixel_aspect or 1), short_side_px
        self._reformatter = VideoReformatter()
        # Without FULL_CHR_H_INT every colour comes out 1.7 levels too dark on average; with these, 0.02 and never more than 0.5.
        self._exact = (
            Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
        )

    def __call__(self, frame: Any) -> np.ndarray:
        height, width = frame.height, frame.width * self._pixel_aspect
        scale = min(1.0, self._short_side_px / min(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = self._reformatter.reformat(frame, *size, "rgb24", interpolation=self._exact, threads=1)
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
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
        )
    return np.asarray(image)
