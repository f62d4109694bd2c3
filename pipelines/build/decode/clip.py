"""Decodes one clip of media into frames and a waveform, in memory.

Frames are those on screen at the middle of equal parts of the clip, by presentation time. Audio and video share one
clock, so that a flash and a click made together stay together, also in files whose streams start at different times.
Reading order: container.py (open the file, find the segment), packet_scan.py (one pass: decode the audio with
audio_track.py, record the times of the frames), truncation.py (is it complete?), frame_selection.py (select frames
and packets), frames_pyav.py and frames_decord.py (decode them), orientation.py (turn them upright), ffmpeg_fallback.py
(media that PyAV does not open). Limits: only the first video and the first audio stream of a file are used, and of
several recordings in one file the first; audio that changes its sample rate is rejected. The pixels can depend on the
version of FFmpeg in the wheel of the decoder, which is stored with each clip.
"""

import dataclasses
import importlib
import math
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from configs.schema import DecodeConfig
from pipelines.build.decode import frames_decord, frames_pyav
from pipelines.build.decode.container import Segment, full_duration_s, regular_file, segment_of, video_stream
from pipelines.build.decode.ffmpeg_fallback import read_media
from pipelines.build.decode.frame_selection import sample_times
from pipelines.build.decode.orientation import display_matrix, upright
from pipelines.build.decode.packet_scan import FrameTimes, Scan, scan
from pipelines.build.decode.silence import SILENT_PEAK, sound_elsewhere
from pipelines.build.decode.truncation import is_truncated
from pipelines.manifest import Clip, RejectedClip
from pipelines.modalities.modality import DecodedClip
from pipelines.rgb_image import upright_rgb

_TRUNCATED_S = 0.5  # a file is truncated if its streams end this much before the end that its header states
_STATIC_LEVELS = 2.0  # of 255; codecs change the parts of a static image by less


def decode_clip(clip: Clip, root: Path, settings: DecodeConfig) -> DecodedClip:
    """Decode a clip.

    Args:
        clip: a row that `pipelines.manifest.check` accepts.
        root: the folder its paths start from.
        settings: number and size of frames, sample rate, minimum and maximum duration.

    Returns:
        The clip with `settings.frames_per_clip` frames, or fewer if the same frame is on screen at several sample
        times; one frame for a clip with an image.

    Raises:
        RejectedClip: the clip cannot be used.
        StorageError: the root does not exist, or its file system does not answer.

    Differs from the reference: audio is resampled from exact positions in time, not from the start of the audio stream.
    """
    image = regular_file(root, clip.image) if clip.image else None
    decoded, fallback = read_media(clip, root, settings, partial(_decode, image=image, settings=settings))
    if fallback:
        name, version = fallback
        start_s, end_s = clip.start_s, clip.start_s + decoded.end_s
        return dataclasses.replace(decoded, start_s=start_s, end_s=end_s, decoder=name, decoder_version=version)
    return decoded


def _decode(
    container: InputContainer, media: Path, clip: Clip, image: Path | None, settings: DecodeConfig
) -> DecodedClip:
    segment = segment_of(container, clip, settings)
    scanned = scan(media, container, segment, with_frames=image is None, channel=settings.channel)
    file_end_s = container.duration / 1e6 if container.duration else segment.start_s + scanned.file_end_s
    segment = _cut_to_content(segment, scanned, container, media, clip, settings)
    waveform, audio_end_s = scanned.audio.waveform(settings.sample_rate_hz)
    if len(waveform) < settings.min_duration_s * settings.sample_rate_hz:
        raise RejectedClip(
            "too_short",
            f"{audio_end_s:.2f} s of audio in a clip of {segment.duration_s:.2f} s, "
            f"but decode.min_duration_s={settings.min_duration_s}",
        )
    peak = np.abs(waveform).max()
    if peak < SILENT_PEAK:
        raise RejectedClip("silent", f"peak {peak:.1e}{sound_elsewhere(media, segment)}")
    decoder: str = settings.decoder
    if image:
        frames, times_s, fps = [_read_image(image, settings.short_side_px)], [0.0], 0.0
    else:
        frames, times_s, fps, decoder = _read_video(container, media, segment, scanned.frames, settings)
    is_cut = segment.duration_s > settings.max_duration_s - 1e-6  # and not to the content of the file
    full_s = full_duration_s(file_end_s, clip, settings) if is_cut else 0.0
    return DecodedClip(
        frames,
        times_s,
        waveform,
        settings.sample_rate_hz,
        segment.start_s,
        segment.end_s,
        fps,
        decoder,
        importlib.import_module("av" if decoder == "pyav" else decoder).__version__,
        full_s,
    )


def _cut_to_content(
    segment: Segment, scanned: Scan, container: InputContainer, media: Path, clip: Clip, settings: DecodeConfig
) -> Segment:
    """Truncate a segment to the end of its streams or of their recording, if the file states another one or none.

    Raises:
        RejectedClip: the file is truncated, or the segment is outside the file or too short.
    """
    if not segment.end_is_stated and container.duration and scanned.file_end_s < settings.min_duration_s:
        return segment.cut_to(container.duration / 1e6 - clip.start_s, clip, settings)
    if scanned.is_joined or not segment.end_is_stated:
        return segment.cut_to(scanned.file_end_s, clip, settings)
    expected_s = segment.duration_s - _TRUNCATED_S
    first_end_s = min(scanned.audio.end_s, scanned.content_end_s if clip.image else scanned.frames.end_s)
    if first_end_s >= expected_s:
        return segment
    ends_early = scanned.content_end_s < expected_s
    truncated = is_truncated(media, container.format.name) if scanned.file_end_s < math.inf else False
    if ends_early if truncated is None else truncated:
        ends = f"{segment.start_s + first_end_s:.2f} s, not at {segment.end_s:.2f} s"
        raise RejectedClip("unreadable", f"truncated: a stream of {clip.media} ends at {ends}")
    return segment.cut_to(scanned.content_end_s, clip, settings) if ends_early else segment


def _read_video(
    container: InputContainer, media: Path, segment: Segment, packets: FrameTimes, settings: DecodeConfig
) -> tuple[list[np.ndarray], list[float], float, str]:
    """The distinct frames of a segment, their times in seconds, the frame rate, and the name of the decoder."""
    stream = video_stream(container)
    convert = FrameConverter(stream.sample_aspect_ratio, settings.short_side_px)
    sample_times_s = sample_times(segment.duration_s, settings.frames_per_clip)
    arguments = (media, segment, packets, sample_times_s, settings.mode, convert)
    decoded = frames_decord.read_frames(*arguments) if settings.decoder == "decord" else None
    decoder = "pyav" if decoded is None else "decord"
    decoded = frames_pyav.read_frames(*arguments) if decoded is None else decoded
    if not decoded:
        raise RejectedClip("no_video", f"no frame between {segment.start_s:.2f} s and {segment.end_s:.2f} s")
    distinct = [
        item for index, item in enumerate(decoded) if not index or not np.array_equal(item[1], decoded[index - 1][1])
    ]
    frames = [frame for _, frame in distinct]
    shows_motion = len(sample_times_s) > 1 and (len(decoded) > 1 or settings.mode != "keyframes")
    if not settings.keep_static and shows_motion and _is_static(frames):
        raise RejectedClip("static", "the frames do not differ")
    return frames, [time_s for time_s, _ in distinct], float(stream.average_rate or 0), decoder


def _is_static(frames: list[np.ndarray]) -> bool:
    """Whether no cell of an 8 x 8 grid changes in any frame."""
    parts = [_parts(frame) for frame in frames]
    return all(part.shape == parts[0].shape and np.abs(part - parts[0]).max() < _STATIC_LEVELS for part in parts[1:])


def _parts(frame: np.ndarray) -> np.ndarray:
    """Mean colors of an 8 x 8 grid of cells, float32 [8, 8, 3]; fewer cells if the frame is smaller."""
    rows, columns = (np.arange(min(8, side)) * side // min(8, side) for side in frame.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(frame.astype(np.float32), rows, axis=0), columns, axis=1)
    return sums / (np.diff([*rows, frame.shape[0]])[:, None, None] * np.diff([*columns, frame.shape[1]])[None, :, None])


class FrameConverter:
    """Converts frames to RGB, uint8 [H_px, W_px, 3]: square pixels, upright, short side at most `short_side_px`."""

    def __init__(self, pixel_aspect: Fraction | None, short_side_px: int) -> None:
        self._pixel_aspect, self._short_side_px = float(pixel_aspect or 1), short_side_px
        self._reformatter = VideoReformatter()
        # Without FULL_CHR_H_INT colors are 1.7 levels too dark on average; with these flags 0.02, and at most 0.5.
        self._exact = (
            Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
        )

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        height, width = frame.height, frame.width * self._pixel_aspect
        scale = min(1.0, self._short_side_px / min(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = self._reformatter.reformat(frame, *size, "rgb24", interpolation=self._exact, threads=1)
        return np.ascontiguousarray(upright(small.to_ndarray(), display_matrix(frame)))


def _read_image(path: Path, short_side_px: int) -> np.ndarray:
    """Read an image file as RGB, uint8 [H_px, W_px, 3], upright, its short side at most `short_side_px`."""
    try:
        with Image.open(path) as file:
            image = upright_rgb(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RejectedClip("unreadable", f"image {path.name}: {error}") from None
    scale = min(1.0, short_side_px / min(image.size))
    if scale < 1:
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
        )
    return np.asarray(image)
