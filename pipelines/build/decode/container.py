"""Opens media files so that they cannot refer to other files, and finds the segment of a clip in them.

Times are seconds from the start of the file. The clock that audio and video share may be at `zero_s` there.
"""

import errno
import math
import os
import stat
from pathlib import Path
from typing import NamedTuple, Self

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from configs.schema import DecodeConfig
from pipelines.manifest import Clip, RejectedClip, StorageError

# Containers that hold their streams themselves; playlists, which refer to other files and addresses, are excluded.
CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,rm,dv,mxf,gxf,wtv,nut,"
    "wav,w64,aiff,au,caf,nistsphere,flac,mp3,aac,loas,ac3,eac3,dts,dtshd,amr,gsm,wv,tta,ape,mpc,mpc8,tak,shn,oma,dsf,"
    "iff,voc,sox,ircam,avr,epaf,pvf,sds"
)
# Containers that do not state their duration: FFmpeg finds it in the last packets, or estimates it from the bit rate.
DURATION_IN_DATA = {"mpegts", "mpeg", "ogg", "mp3", "aac", "loas", "ac3", "eac3", "dts", "amr", "gsm"}
# Errors that FFmpeg reports only for a file system or for this process; it reports EIO for broken files too.
STORAGE_ERRORS = {
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ENODEV,
    errno.ENXIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ETIMEDOUT,
    errno.EREMOTEIO,
}
# How far before a segment reading starts: lossy audio needs a few packets to settle. The larger values are for seeks
# that land after their target, as in files without an index (MPEG-TS).
PREROLL_S = (0.5, 10.0, math.inf)
_MAX_EXCESS_S = 0.5  # a clip that is longer than `max_duration_s` by less is not worth mentioning


class Segment(NamedTuple):
    """The segment of a file that a clip covers.

    Attributes:
        zero_s: time of the start of the file on the clock of its streams.
        start_s, end_s: the segment, in seconds from the start of the file.
        end_is_stated: whether the container states its duration, so that `end_s` is known before the file is read.
    """

    zero_s: float
    start_s: float
    end_s: float
    end_is_stated: bool

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return self.end_s - self.start_s

    def cut_to(self, file_end_s: float, clip: Clip, settings: DecodeConfig) -> Self:
        """Truncate the segment to the end of the file, given in seconds from the start of the segment.

        Raises:
            RejectedClip: the segment is outside the file, or too short.
        """
        if file_end_s <= 0:
            raise RejectedClip("outside_file", f"starts at {self.start_s:.2f} s, after the end of {clip.media}")
        segment = self._replace(end_s=min(self.end_s, self.start_s + file_end_s))
        if segment.duration_s < settings.min_duration_s:
            raise RejectedClip(
                "too_short", f"{segment.duration_s:.2f} s, but decode.min_duration_s={settings.min_duration_s}"
            )
        return segment

    def clip_time_s(self, stamp: int, unit_s: float) -> float:
        """Convert a timestamp in units of `unit_s` (a float, because Fractions are slow) to seconds of the clip."""
        return stamp * unit_s - self.zero_s - self.start_s


def regular_file(root: Path, name: str) -> Path:
    """The path of a regular, readable, non-empty file below the root.

    Raises:
        RejectedClip: it is missing or not such a file.
        StorageError: the root does not exist, or its file system does not answer.
    """
    path = root / name
    try:
        status = path.stat()
    except OSError as error:
        if error.errno in STORAGE_ERRORS or error.errno == errno.EIO or not root.is_dir():
            raise StorageError(f"{path}: {error.strerror}") from None
        reason = "unreadable" if isinstance(error, PermissionError) else "missing"
        raise RejectedClip(reason, f"{name}: {error.strerror}") from None
    for is_usable, problem in (
        (stat.S_ISREG(status.st_mode), f"{name} is not a regular file"),
        (os.access(path, os.R_OK), f"{name}: permission denied"),
        (status.st_size, f"{name} is empty"),
    ):
        if not is_usable:
            raise RejectedClip("unreadable", problem)
    return path


UNSUPPORTED = "not a supported audio or video format"


class UnsupportedMedia(Exception):
    """The container or codec is not supported by PyAV."""


def open_media(path: Path, has_stated_size: bool = True) -> InputContainer:
    """Open an `av` input container that decodes in one thread.

    Args:
        path: the file.
        has_stated_size: False: read WAV and RF64 to the end of the file, whatever their header states.

    Raises:
        UnsupportedMedia: the file is not one of CONTAINERS.
        StorageError: the file system does not answer.
    """
    av.logging.set_level(None)  # errors are in the list of rejected clips
    try:
        # "file:" prevents a name such as "concat:a" from being parsed as a URL.
        options = {"format_whitelist": CONTAINERS} | ({} if has_stated_size else {"ignore_length": "1"})
        container = av.open(f"file:{path}", metadata_errors="replace", options=options)
    except av.error.FFmpegError as error:
        if error.errno in STORAGE_ERRORS:
            raise StorageError(f"{path}: {error.strerror}") from None
        # FFmpeg reports a container that is not in the list as an invalid argument.
        raise UnsupportedMedia(UNSUPPORTED if error.errno == errno.EINVAL else error.strerror) from None
    for stream in (*container.streams.video, *container.streams.audio):
        if stream.codec_context is not None:
            stream.codec_context.thread_type = "NONE"
    return container


def seek(container: InputContainer, segment: Segment, time_s: float) -> None:
    """Seek from the start of a file to a keyframe at or before a time; does nothing for times up to 0."""
    if time_s > 0:
        container.seek(round((segment.zero_s + time_s) * 1e6), backward=True)


def video_stream(container: InputContainer) -> av.VideoStream:
    """The first video stream that is not the cover image of an audio file.

    Raises:
        RejectedClip: there is none.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise RejectedClip("no_video", "the media file has no video stream")


def time_base_s(stream: Stream) -> float:
    """Unit of the timestamps of a stream in seconds; FFmpeg sets it for every stream that it reads."""
    return float(stream.time_base or 0)


def segment_of(container: InputContainer, clip: Clip, settings: DecodeConfig) -> Segment:
    """The segment of a clip, truncated to the duration that the container states if that leaves a clip.

    Raises:
        RejectedClip: a stream is missing, or the segment is outside a file whose duration was found in its data.
        UnsupportedMedia: there is no decoder for a stream.
    """
    video = None if clip.image else video_stream(container)
    if not container.streams.audio:
        raise RejectedClip("no_audio", "the media file has no audio stream")
    for stream in (container.streams.audio[0], video):
        if stream is not None and stream.codec_context is None:
            raise UnsupportedMedia(f"no decoder for its {stream.type}")
    end_s = min(clip.end_s or math.inf, clip.start_s + settings.max_duration_s)
    segment = Segment((container.start_time or 0) / 1e6, clip.start_s, end_s, bool(container.duration))
    stated_s = (container.duration or 0) / 1e6 - clip.start_s
    if container.duration and (container.format.name in DURATION_IN_DATA or stated_s >= settings.min_duration_s):
        return segment.cut_to(stated_s, clip, settings)
    return segment._replace(end_is_stated=False)  # the file is read, in case that its header states a wrong duration


def full_duration_s(file_end_s: float, clip: Clip, settings: DecodeConfig) -> float:
    """Duration of a clip that is cut to `settings.max_duration_s`, given the end of its file; 0 for other clips."""
    duration_s = min(clip.end_s or math.inf, file_end_s) - clip.start_s
    return duration_s if duration_s > settings.max_duration_s + _MAX_EXCESS_S else 0.0
