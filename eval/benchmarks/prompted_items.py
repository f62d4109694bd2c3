"""The prompted ADE20K folder: its table, pictures, annotations and prompts.

Folder (reference 1.6):
    prompted_segmentation.csv   image_location, ade_class_id, speech_prompt_file, timing (JSON [start_s, end_s] of the word), vggsound_file
    frames/NAME.jpg  annotations/NAME_seg.png  audio/NAME.wav      found by the base name of the paths in the table
    class_names.csv             optional: ade_class_id, name; only shown

A pixel's class is int(R / 10) * 256 + G. Rows of class 0, or whose files are not there, are left out and counted.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from configs.command import UsageError
from pipelines.stream.augment import evaluation_image

TABLE = "prompted_segmentation.csv"
PROMPT_COLUMN = {"speech": "speech_prompt_file", "sound": "vggsound_file"}


class PromptedPicture(NamedTuple):
    """One row of the table: a picture, the class asked for, the prompt; `word_s` is where in a spoken prompt its word is."""

    frame: Path
    annotation: Path
    audio: Path
    class_id: int
    word_s: tuple[float, float] | None


def read_items(root: Path, prompt: str, left_out: Counter[str]) -> Iterator[PromptedPicture]:
    """The usable rows of the table in order; the others are counted by reason in `left_out`.

    Raises:
        UsageError: no folder, no table, no such column, a class or a timing that is not one.
    """
    table = root / TABLE
    if not table.is_file():
        raise UsageError(f"prompted_ade20k={root}: no {TABLE} there; expected beside it are frames/, annotations/ and audio/")
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        wanted = ["image_location", "ade_class_id", PROMPT_COLUMN[prompt], *(["timing"] if prompt == "speech" else [])]
        missing = [column for column in wanted if column not in (reader.fieldnames or [])]
        if missing:
            raise UsageError(f"{table}: no column {', '.join(missing)}; there are {', '.join(reader.fieldnames or ['none'])}")
        for row in reader:
            try:
                class_id = int(row["ade_class_id"])
                word_s = tuple(map(float, json.loads(row["timing"]))) if prompt == "speech" and row[PROMPT_COLUMN[prompt]] else None
                if word_s is not None and not (len(word_s) == 2 and 0 <= word_s[0] <= word_s[1] < math.inf):
                    raise ValueError(word_s)
            except (ValueError, TypeError):
                raise UsageError(
                    f"{table}, line {reader.line_num}: ade_class_id must be a whole number and timing JSON [start_s, end_s], 0 <= start_s <= end_s"
                ) from None
            name, audio = Path(row["image_location"]), Path(row[PROMPT_COLUMN[prompt]] or "")
            item = PromptedPicture(root / "frames" / name.name, root / "annotations" / f"{name.stem}_seg.png", root / "audio" / audio.name, class_id, word_s)
            why = _why_not(item, bool(audio.name))
            if why:
                left_out[why] += 1
            else:
                yield item


def _why_not(item: PromptedPicture, has_prompt: bool) -> str | None:
    if not item.class_id:
        return "class_0"
    if not has_prompt or not item.audio.is_file():
        return "no_prompt_file"
    return None if item.frame.is_file() and item.annotation.is_file() else "no_picture_or_annotation"


def read_class_names(path: Path) -> dict[int, str]:
    """Names by class number; {} without the file."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {int(row["ade_class_id"]): row["name"] for row in csv.DictReader(file)}


def read_frame(path: Path, size_px: int) -> UInt8[Tensor, "3 H_px W_px"]:
    """uint8 [3, size_px, size_px]: short side resized, centre crop. Raises UsageError: not a picture."""
    return evaluation_image(_read_rgb(path), size_px)


def read_labels(item: PromptedPicture, size_px: int) -> Int[Tensor, "H_px W_px"]:
    """int32 [size_px, size_px]: the class of each pixel, in the geometry of `read_frame`, nearest neighbour; 0 is no class.

    Raises:
        UsageError: not a picture, or of another size than the frame.
    """
    from PIL import Image

    rgb = _read_rgb(item.annotation).to(torch.int32)
    with Image.open(item.frame) as frame:
        width_px, height_px = frame.size
    if rgb.shape[-2:] != (height_px, width_px):
        raise UsageError(f"{item.annotation} is {rgb.shape[-1]} x {rgb.shape[-2]} px, its picture {item.frame} is {width_px} x {height_px}")
    classes = (rgb[0] // 10 * 256 + rgb[1])[None]
    resized = functional.resize(classes, [size_px], interpolation=InterpolationMode.NEAREST) if min(classes.shape[-2:]) != size_px else classes
    return functional.center_crop(resized, [size_px, size_px])[0]


def read_target(item: PromptedPicture, size_px: int) -> Bool[np.ndarray, "H_px W_px"]:
    """True in the pixels of the class that is asked for. Args and Raises as `read_labels`."""
    return (read_labels(item, size_px) == item.class_id).numpy()


def read_waveform(path: Path, sample_rate_hz: int) -> np.ndarray:
    """float32 [S] in -1 to 1: the first channel, resampled where the file has another rate.

    Raises:
        UsageError: not a sound file, or an empty one.
    """
    import soundfile
    from torchaudio.functional import resample

    try:
        waveform, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UsageError(f"{path} is not a sound file: {error}") from None
    if not len(waveform):
        raise UsageError(f"{path} holds no sound")
    first = torch.from_numpy(np.ascontiguousarray(waveform[:, 0]))
    return (first if rate_hz == sample_rate_hz else resample(first, rate_hz, sample_rate_hz)).numpy()


def _read_rgb(path: Path) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    except (UnidentifiedImageError, OSError) as error:
        raise UsageError(f"{path} is not a whole picture: {error}") from None
