"""The prompted ADE20K folder: its table, pictures, annotations and prompts.

Folder (reference 1.6):
    prompted_segmentation.csv   image_location, ade_class_id, speech_prompt_file, timing (JSON [start_s, end_s] of the word), vggsound_file
    frames/NAME.jpg  annotations/NAME_seg.png  audio/NAME.wav      found by the base name of the paths in the table
    class_names.csv             optional: ade_class_id, name; only shown

A pixel's class is int(R / 10) * 256 + G. Rows of class 0, or whose files are not there, are left out and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from configs.errors import UsageError
from eval.benchmarks.pictures import opened_picture
from eval.benchmarks.tables import csv_rows, find_table, finite, validate_file_name
from pipelines.stream.augment import resize_center_crop

TABLE = "prompted_segmentation.csv"
# int(R / 10) * 256 + G of a white pixel.
MAX_CLASS = 25 * 256 + 255
PROMPT_COLUMN = {"speech": "speech_prompt_file", "sound": "vggsound_file"}


class PromptedExample(NamedTuple):
    """One row of the table: a picture, the class asked for, the prompt; `word_s` is where in a spoken prompt its word is."""

    frame: Path
    annotation: Path
    audio: Path | None
    class_id: int
    word_s: tuple[float, float] | None


def read_items(root: Path, prompt: str, left_out: Counter[str]) -> Iterator[PromptedExample]:
    """The usable rows of the table in order; the others are counted by reason in `left_out`.

    Raises:
        UsageError: no folder, no table, no such column, a class or a timing that is none, a name that no file can have.
    """
    table = find_table("prompted_ade20k", root, TABLE, "frames/, annotations/ and audio/")
    columns = ["image_location", "ade_class_id", PROMPT_COLUMN[prompt], *(["timing"] if prompt == "speech" else [])]
    wanted = "ade_class_id is a whole number, timing JSON [start_s, end_s] with 0 <= start_s <= end_s"
    for item in csv_rows(table, columns, partial(_read_row, root, prompt), wanted):
        why = _why_not(item)
        if why:
            left_out[why] += 1
        else:
            yield item


def _read_row(root: Path, prompt: str, row: dict[str, str]) -> PromptedExample:
    """Raises ValueError or TypeError: a class or a timing that is none, a name that no file can have."""
    picture, audio = (
        Path(validate_file_name(Path(row["image_location"]).name)),
        Path(row[PROMPT_COLUMN[prompt]] or "").name,
    )
    class_id = int(row["ade_class_id"])
    if not 0 <= class_id <= MAX_CLASS:
        raise ValueError(f"ade_class_id {class_id} is not 0 to {MAX_CLASS}")
    word_s = None
    if prompt == "speech" and audio:
        start_s, end_s = map(finite, json.loads(row["timing"]))
        if not 0 <= start_s <= end_s:
            raise ValueError(f"timing {row['timing']}")
        word_s = start_s, end_s
    sound = root / "audio" / validate_file_name(audio) if audio else None
    return PromptedExample(
        root / "frames" / picture.name, root / "annotations" / f"{picture.stem}_seg.png", sound, class_id, word_s
    )


def _why_not(item: PromptedExample) -> str | None:
    if not item.class_id:
        return "class_0"
    if item.audio is None or not item.audio.is_file():
        return "no_prompt_file"
    return None if item.frame.is_file() and item.annotation.is_file() else "no_picture_or_annotation"


def read_class_names(path: Path) -> dict[int, str]:
    """Names by class number, all different; {} without the file. Raises UsageError: a file with other columns, or a class that is no number."""
    if not path.is_file():
        return {}
    names = dict(csv_rows(path, ("ade_class_id", "name"), lambda row: (int(row["ade_class_id"]), row["name"])))
    shared = {name for name, classes in Counter(names.values()).items() if classes > 1}
    return {class_id: f"{name} (class {class_id})" if name in shared else name for class_id, name in names.items()}


def read_frame(path: Path, size_px: int) -> UInt8[Tensor, "3 H_px W_px"]:
    """uint8 [3, size_px, size_px]: short side resized, centre crop. Raises UsageError: not a picture."""
    return resize_center_crop(_read_rgb(path), size_px)


def read_labels(item: PromptedExample, size_px: int) -> Int[Tensor, "H_px W_px"]:
    """int32 [size_px, size_px]: the class of each pixel, in the geometry of `read_frame`, nearest neighbour; 0 is no class.

    Raises:
        UsageError: not a picture, or of another size than the frame.
    """
    rgb = _read_rgb(item.annotation).to(torch.int32)
    with opened_picture(item.frame) as frame:
        width_px, height_px = frame.size
    if rgb.shape[-2:] != (height_px, width_px):
        raise UsageError(
            f"{item.annotation} is {rgb.shape[-1]} x {rgb.shape[-2]} px, its picture {item.frame} is {width_px} x {height_px}"
        )
    classes = (rgb[0] // 10 * 256 + rgb[1])[None]
    resized = (
        functional.resize(classes, [size_px], interpolation=InterpolationMode.NEAREST)
        if min(classes.shape[-2:]) != size_px
        else classes
    )
    return functional.center_crop(resized, [size_px, size_px])[0]


def read_target(item: PromptedExample, size_px: int) -> Bool[np.ndarray, "H_px W_px"]:
    """True in the pixels of the class that is asked for. Args and Raises as `read_labels`."""
    return (read_labels(item, size_px) == item.class_id).numpy()


def _read_rgb(path: Path) -> Tensor:
    with opened_picture(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
