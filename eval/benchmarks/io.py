"""Readers for images, audio files and CSV and JSON tables of published data sets. Errors name the file and the row."""

import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from configs.errors import UsageError
from pipelines.build.decode import audio_track
from pipelines.build.decode.audio_file import read_audio
from pipelines.manifest import RejectedClip, StorageError
from pipelines.rgb_image import turn_upright

Row = TypeVar("Row")

# The limit of file systems, 255, minus room for suffixes that readers add (`_seg.png`).
_MAX_NAME_BYTES = 240
_MAX_FILTER_SAMPLES = 10_000_000  # of all phases of a resampling filter: 40 MB


# ---------------------------------------------------------------------------------------------- images and audio


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image for the `with` block, upright; boxes and masks of data sets refer to the upright image.

    Raises:
        UsageError: not a complete image; also for errors of decoding inside the block.
    """
    try:
        with Image.open(path) as image:
            turn_upright(image)
            yield image
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"{path} is not a complete image ({error}); repair or remove it: items without their files are counted and "
            "left out"
        ) from None


def read_waveform(path: Path, sample_rate_hz: int) -> np.ndarray:
    """Read the first channel of an audio file as the build does, resampled to `sample_rate_hz`.

    Returns:
        float32 [S], -1 to 1.

    Raises:
        UsageError: not an audio file, or one that is truncated, without samples or not finite.
    """
    return resample_waveform(*_read_audio(path), sample_rate_hz)


def resample_waveform(samples: np.ndarray, rate_hz: int, sample_rate_hz: int) -> np.ndarray:
    """Resample float32 [S] from `rate_hz` to `sample_rate_hz`.

    torchaudio's filters, one for each phase, would need gigabytes for rates such as 44,101 Hz; FFmpeg resamples these.
    """
    from torchaudio.functional import resample

    if rate_hz == sample_rate_hz:
        return samples
    divisor = math.gcd(rate_hz, sample_rate_hz)
    if rate_hz // divisor * (sample_rate_hz // divisor) > _MAX_FILTER_SAMPLES:
        return audio_track.resample(samples, rate_hz, sample_rate_hz)
    return resample(torch.from_numpy(samples), rate_hz, sample_rate_hz).numpy()


def audio_duration_s(path: Path) -> float:
    """Duration of an audio file. Raises UsageError: as `read_waveform`."""
    samples, rate_hz = _read_audio(path)
    return len(samples) / rate_hz


def _read_audio(path: Path) -> tuple[np.ndarray, int]:
    try:
        return read_audio(path)
    except (RejectedClip, StorageError) as error:
        raise UsageError(f"{path} is not an audio file that can be used: {getattr(error, 'detail', error)}") from None


# ---------------------------------------------------------------------------------------------- tables


def find_table(root: Path, name: str, others: str) -> Path:
    """The path of the table `name` in the folder of a data set.

    Args:
        others: the other contents of the folder, for the message.

    Raises:
        UsageError: no such file.
    """
    path = root / name
    if not path.is_file():
        raise UsageError(f"{root}: no {name}; the folder must contain it and {others}")
    return path


def csv_rows(
    path: Path, columns: Sequence[str], parse: Callable[[dict[str, str]], Row], row_format: str = ""
) -> Iterator[Row]:
    """Parse the rows of a CSV file with a header, in order.

    Args:
        columns: required columns; others are allowed.
        parse: raises ValueError, KeyError or TypeError for an invalid row.
        row_format: describes a valid row, for messages; empty: the columns.

    Raises:
        UsageError: not a CSV file, a missing column, or an invalid row.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            present = reader.fieldnames or []
            missing = [column for column in columns if column not in present]
            if missing:
                raise UsageError(
                    f"{path}: no column {', '.join(missing)}; its columns are {', '.join(present) or 'none'}"
                )
            for row in reader:
                yield _parse(
                    row, parse, f"{path}, line {reader.line_num}", row_format or f"a row has {', '.join(columns)}"
                )
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a CSV file: {error}") from None


def json_rows(path: Path, row_format: str, parse: Callable[[dict[str, Any]], Row]) -> Iterator[Row]:
    """Parse the objects of a JSON list, in order.

    Args:
        row_format: describes a valid object, for messages.
        parse: raises ValueError, KeyError or TypeError for an invalid object.

    Raises:
        UsageError: not a JSON list, or an invalid row.
    """
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise UsageError(f"{path} is not a list of rows; a row is {row_format}")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UsageError(f"{path}, row {number}: {str(row)[:50]} is not an object; a row is {row_format}")
        yield _parse(row, parse, f"{path}, row {number}", f"a row is {row_format}")


def validate_file_name(value: Any) -> str:
    """Return `value` if it names a file inside a folder.

    Raises:
        ValueError: empty, a path, or longer than file systems allow.
    """
    if not isinstance(value, str) or not value.strip(".") or "/" in value or "\\" in value or "\0" in value:
        raise ValueError(f"{value!r} is not a file name")
    if len(os.fsencode(value)) > _MAX_NAME_BYTES:
        raise ValueError(f"{value[:50]!r}... of {len(value)} characters is not a file name (is a quote not closed?)")
    return value


def finite_float(value: Any) -> float:
    """Convert to a finite number. Raises ValueError or TypeError: not a number, or not finite."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number


def _parse(row: Any, parse: Callable[[Any], Row], position: str, row_format: str) -> Row:
    try:
        return parse(row)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UsageError(f"{position}: {type(error).__name__} {error}; {row_format}") from None
