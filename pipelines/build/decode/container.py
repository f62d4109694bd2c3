"""A media file: opened so that it names no other file, and the stretch of it that a clip is.

Times are seconds from the start of the file; a stream's own clock may begin elsewhere (`zero_s`), the same for picture and sound.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from configs.schema import DecodeConfig
from pipelines.manifest import Clip, RejectedClip, StorageError

# Containers that hold their own pictures and sound; playlists, which name other files and addresses, are not among them.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,rm,wav,aiff,flac,mp3,aac"
# What FFmpeg itself reports only of a file system or of this process; EIO it also says of broken files.
STORAGE_ERRORS = frozenset(
    (
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ENODEV,
        errno.ENXIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ETIMEDOUT,
        errno.EREMOTEIO,
    )
)
# How far before a segment a file is read: lossy sound needs a few packets to settle; where that lands behind the target, as it can in a file without
# index (MPEG-TS), further.
PREROLL_S = (0.5, 10.0, math.inf)
_END_BYTES = 65536


class Segment(NamedTuple):
    """A stretch of a file, in seconds from the start of the file, which is at `zero_s` on the clock of its streams."""

    zero_s: float
    start_s: float
    end_s: float
    end_is_stated: bool

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s

    def cut_to(self, file_end_s: float, clip: Clip, settings: DecodeConfig) -> Segment:
        """What is left of it in a file that ends so many seconds after its start.

        Raises:
            RejectedClip: nothing, or too little.
        """
        if file_end_s <= 0:
            raise RejectedClip("outside_file", f"starts at {self.start_s:.2f} s, after the end of {clip.media}")
        segment = self._replace(end_s=min(self.end_s, self.start_s + file_end_s))
        if segment.duration_s < settings.min_duration_s:
            raise RejectedClip("too_short", f"{segment.duration_s:.2f} s, wanted {settings.min_duration_s} s")
        return segment

    def clip_time_s(self, stamp: int, unit_s: float) -> float:
        """A stream's time stamp in seconds from the start of the clip; `unit_s` is the stream's time base as a float, fractions being slow."""
        return stamp * unit_s - self.zero_s - self.start_s


def regular_file(root: Path, name: str) -> Path:
    """The path of a file below the root.

    Raises:
        RejectedClip: it is not there, no regular file, empty or not ours to read.
        StorageError: the root is gone, or its file system does not answer.
    """
    path = root / name
    try:
        status = path.stat()
    except OSError as error:
        if error.errno in STORAGE_ERRORS or error.errno == errno.EIO or not root.is_dir():
            raise StorageError(f"{path}: {error.strerror}") from None
        reason = "unreadable" if isinstance(error, PermissionError) else "missing"
        raise RejectedClip(reason, f"{name}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise RejectedClip(
            "unreadable", f"{name} is {'a folder' if stat.S_ISDIR(status.st_mode) else 'no regular file'}"
        )
    if not os.access(path, os.R_OK):
        raise RejectedClip("unreadable", f"{name}: no right to read it")
    if not status.st_size:
        raise RejectedClip("unreadable", f"{name} has zero bytes")
    return path


def missing_bytes(path: Path) -> int:
    """How many bytes a WAV or AVI file lacks of what its header states; FFmpeg takes such a file for a shorter one. 0 for other files."""
    with path.open("rb") as file:
        head = file.read(8)
    stated = int.from_bytes(head[4:], "little") + 8
    is_streamed = stated in (8, 0xFFFFFFFF + 8)  # its writer could not come back to say how long it is
    return max(0, stated - path.stat().st_size) if head[:4] == b"RIFF" and not is_streamed else 0


class UnsupportedMedia(Exception):
    """Our decoders know no such container or codec."""


def open_media(path: Path) -> Any:
    """An `av` container to read from, at its start; it decodes in one thread.

    Raises:
        UnsupportedMedia: no container of ours.
        StorageError: the file system does not answer.
    """
    import av

    av.logging.set_level(None)  # what decoders say of broken files is in the ledger, where it belongs
    try:
        # "file:" keeps a name such as "concat:a" from being read as an address.
        container = av.open(f"file:{path}", metadata_errors="replace", options={"format_whitelist": CONTAINERS})
    except av.error.FFmpegError as error:
        if error.errno in STORAGE_ERRORS:
            raise StorageError(f"{path}: {error.strerror}") from None
        raise UnsupportedMedia(error.strerror) from None
    for stream in (*container.streams.video, *container.streams.audio):
        if stream.codec_context is not None:
            stream.thread_type = "NONE"
    return container


def seek(container: Any, segment: Segment, time_s: float) -> None:
    """Send a container that is at its start to a key picture at or before a time of the file; at 0 and before it stays."""
    if time_s > 0:
        container.seek(round((segment.zero_s + time_s) * 1e6), backward=True)


def picture_stream(container: Any) -> Any | None:
    """The first video stream that is not the cover of a record."""
    from av.stream import Disposition

    return next(
        (stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic), None
    )


def segment_of(container: Any, clip: Clip, settings: DecodeConfig) -> Segment:
    """The stretch a clip asks for, as far as the file says it has it.

    Raises:
        RejectedClip: a stream is missing, or what is left is too short.
        UnsupportedMedia: there is no decoder for a stream.
    """
    if not clip.image and picture_stream(container) is None:
        raise RejectedClip("no_video", f"{clip.media} has no picture stream")
    if not container.streams.audio:
        raise RejectedClip("no_audio", f"{clip.media} has no sound stream")
    for stream in (container.streams.audio[0], None if clip.image else picture_stream(container)):
        if stream is not None and stream.codec_context is None:
            raise UnsupportedMedia(f"no decoder for its {stream.type}")
    end_s = min(clip.end_s or math.inf, clip.start_s + settings.max_duration_s)
    segment = Segment((container.start_time or 0) / 1e6, clip.start_s, end_s, bool(container.duration))
    return segment.cut_to((container.duration or math.inf) / 1e6 - clip.start_s, clip, settings)


def media_fingerprint(root: Path, clip: Clip) -> str:
    """What tells whether the files of a clip have changed: size, and hash of both ends, of each; the same for a copy elsewhere."""
    states = []
    for name in filter(None, (clip.media, clip.image)):
        path = root / name
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                states.append("no regular file")
                continue
            with path.open("rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                digest = hashlib.sha256(file.read(_END_BYTES))
                file.seek(max(0, size_bytes - _END_BYTES))
                digest.update(file.read(_END_BYTES))
            states.append(f"{size_bytes}-{digest.hexdigest()[:16]}")
        except OSError as error:
            states.append(error.strerror)
    return " ".join(states)
