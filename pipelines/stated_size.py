"""The size that the header of a WAV, RF64, W64, CAF or AVI file states, to find truncated ones, which FFmpeg accepts.

A program that writes into a pipe cannot seek back to the header, which then holds a placeholder: 0, the largest value
of its integer, or half of it (SoX and espeak-ng: 0x7ffff000). The samples of such a file are those that it has.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

_ORDERS: dict[bytes, Literal["little", "big"]] = {
    b"RIFF": "little",
    b"RIFX": "big",
    b"RF64": "little",
    b"BW64": "little",
}
_PLACEHOLDER_MARGIN = 1 << 20  # around 2^31 and 2^32: headers count in the size, or not
_MAX_CHUNKS = 100


def missing_bytes(path: Path) -> int | None:
    """By how many bytes a file is shorter than its header states; 0 for other formats, None for a placeholder."""
    with path.open("rb") as file:
        end = _stated_end(file)
    return max(0, end - path.stat().st_size) if end else None


def _is_placeholder(size: int) -> bool:
    """Whether a stated size stands for an unknown one."""
    return size == 0 or size >= 1 << 62 or min(abs(size - (1 << 31)), abs(size - (1 << 32))) <= _PLACEHOLDER_MARGIN


def with_stated_size(data: bytes) -> bytes:
    """A WAV file with the size of its samples in place of 0, with which libsndfile finds none; others unchanged."""
    offset, size = _data_chunk(io.BytesIO(data)) if data[:4] == b"RIFF" and data[8:12] == b"WAVE" else (0, 0)
    if not offset or size:
        return data
    return data[: offset - 4] + (len(data) - offset).to_bytes(4, "little") + data[offset:]


def _data_chunk(file: BinaryIO) -> tuple[int, int]:
    """Offset and stated size of the samples of a WAV or RF64 file; (0, 0) if they are not among its first chunks."""
    file.seek(0)
    order, size_64 = _ORDERS[file.read(12)[:4]], 0
    for name, size, offset in _chunks(file, 4, order):
        if name == b"ds64":
            size_64 = int.from_bytes(file.read(16)[8:], "little")
        if name == b"data":
            return offset, size_64 if size == 0xFFFFFFFF else size
    return 0, 0


def _stated_end(file: BinaryIO) -> int:
    """Where a file ends or, in WAV and CAF, its samples do; 0: a placeholder; -1: another format."""
    head = file.read(40)
    if order := _ORDERS.get(head[:4]):
        riff_size = int.from_bytes(head[4:8], order)
        offset, size = _data_chunk(file) if head[8:12] == b"WAVE" else (0, 0)
    elif head[:16].startswith(b"riff\x2e\x91\xcf\x11"):  # W64
        offset, riff_size, size = 0, int.from_bytes(head[16:24], "little") - 8, 0
    elif head[:4] == b"caff":
        file.seek(8)
        offset, size = next(((at, size) for name, size, at in _chunks(file, 8, "big") if name == b"data"), (0, 0))
        riff_size = 0
    else:
        return -1
    ends = ((size, offset + size), (riff_size, riff_size + 8))
    return min((end for stated, end in ends if not _is_placeholder(stated)), default=0)


def _chunks(file: BinaryIO, size_bytes: int, order: Literal["little", "big"]) -> Iterator[tuple[bytes, int, int]]:
    """Name, stated size and offset of the data of the first chunks, from the position of the file on."""
    for _ in range(_MAX_CHUNKS):
        header = file.read(4 + size_bytes)
        size, offset = int.from_bytes(header[4:], order), file.tell()
        yield header[:4], size, offset
        if len(header) < 4 + size_bytes or size >= 1 << 62:
            return
        file.seek(offset + size + (size % 2 if size_bytes == 4 else 0))
