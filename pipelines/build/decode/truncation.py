"""Whether bytes are missing at the end of a file, by the structure of its container.

The duration that a container states is no proof: it may be that of a longer subtitle track, the time on a clock that
does not start at 0, or simply wrong. A header is read only if the streams of a file end before the stated duration.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pipelines.build.decode.container import DURATION_IN_DATA

_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_TAIL_BYTES = 4096


def is_truncated(path: Path, format_name: str) -> bool | None:
    """Whether a file of a container format of FFmpeg is shorter than its header states, or ends in zeros.

    Files of zeros at the end are downloads whose space was reserved before they were interrupted.

    Returns:
        None if the format does not tell, so that the stated duration must decide.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size_bytes - _TAIL_BYTES))
        if not any(file.read()):
            return True
        if format_name in _STATED_ENDS:
            file.seek(0)
            return _STATED_ENDS[format_name](file, size_bytes) > size_bytes
    is_riff = format_name in ("avi", "wav")  # `stated_size.missing_bytes` has accepted it
    return False if is_riff or format_name in DURATION_IN_DATA else None


def _end_of_boxes(file: BinaryIO, size_bytes: int) -> int:
    """End of the last box of an MP4 or QuickTime file; a size of 0 means the end of the file, 1 a 64-bit size."""
    end = 0
    while end < size_bytes:
        file.seek(end)
        header = file.read(16)
        size = int.from_bytes(header[:4])
        size = int.from_bytes(header[8:]) if size == 1 else size
        end = end + size if size >= 8 else size_bytes
    return end


def _end_of_segment(file: BinaryIO, _: int) -> int:
    """End of the first segment of a Matroska file; 0 if its size is unknown."""

    def read_integer() -> int:
        first = file.read(1)[0]
        extra = 8 - first.bit_length()
        return ((first << 8 * extra) | int.from_bytes(file.read(extra))) & ((1 << 7 * (extra + 1)) - 1)

    file.seek(4)
    file.seek(read_integer() + 4, 1)
    size = read_integer()
    return 0 if size == (1 << 56) - 1 else file.tell() + size


def _end_of_tags(file: BinaryIO, size_bytes: int) -> int:
    """The size of an FLV file if it ends with a tag and the size of that tag."""
    file.seek(size_bytes - 4)
    tag_bytes = int.from_bytes(file.read(4))
    file.seek(max(0, size_bytes - 4 - tag_bytes))
    return size_bytes + (int.from_bytes(file.read(4)[1:]) + 11 != tag_bytes)


def _asf_bytes(file: BinaryIO, _: int) -> int:
    """The size that an ASF file states; 0 if it was written as a stream."""
    header = file.read(65536).partition(_ASF_FILE_PROPERTIES)[2]
    is_stream = int.from_bytes(header[72:76], "little") & 1
    return 0 if is_stream else int.from_bytes(header[24:32], "little")


_STATED_ENDS: dict[str, Callable[[BinaryIO, int], int]] = {
    "mov,mp4,m4a,3gp,3g2,mj2": _end_of_boxes,
    "matroska,webm": _end_of_segment,
    "flv": _end_of_tags,
    "asf": _asf_bytes,
}
