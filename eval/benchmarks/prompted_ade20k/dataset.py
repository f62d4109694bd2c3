"""The prompted ADE20K folder: its table, images, annotations and prompts.

Folder (reference 1.6):
    prompted_segmentation.csv   image_location, ade_class_id, speech_prompt_file, vggsound_file, timing: JSON
                                [start_s, end_s] of the word
    frames/NAME.jpg  annotations/NAME_seg.png  audio/NAME.wav      found by the base names of the paths in the table
    class_names.csv             optional: ade_class_id, name; for display only

Annotations have the orientation of the upright image, as its EXIF metadata states it.
The class of a pixel is int(R / 10) * 256 + G. Rows of class 0, or whose files are missing, are left out and counted.
"""

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
from eval.benchmarks.io import csv_rows, find_table, finite_float, open_image, validate_file_name
from pipelines.rgb_image import upright_rgb
from pipelines.stream.augment import resize_center_crop

TABLE = "prompted_segmentation.csv"
# int(R / 10) * 256 + G of a white pixel.
MAX_CLASS = 25 * 256 + 255
PROMPT_COLUMN = {"speech": "speech_prompt_file", "sound": "vggsound_file"}


class PromptedExample(NamedTuple):
    """One row of the table.

    Attributes:
        frame, annotation, audio: files; `audio` is the prompt.
        class_id: the class to find.
        word_s: start and end of the word in a spoken prompt.
    """

    frame: Path
    annotation: Path
    audio: Path
    class_id: int
    word_s: tuple[float, float] | None


def read_items(root: Path, prompt: str, left_out: Counter[str]) -> Iterator[PromptedExample]:
    """The usable rows of the table in order; the others are counted by reason in `left_out`.

    Raises:
        UsageError: no folder, table or column, an invalid class or timing, or an invalid file name.
    """
    table = find_table(root, TABLE, "frames/, annotations/ and audio/")
    columns = ["image_location", "ade_class_id", PROMPT_COLUMN[prompt], *(["timing"] if prompt == "speech" else [])]
    row_format = "ade_class_id is a whole number, timing JSON [start_s, end_s] with 0 <= start_s <= end_s"
    for item in csv_rows(table, columns, partial(_parse, root, prompt), row_format):
        reason = _reason_to_skip(item)
        if reason:
            left_out[reason] += 1
        else:
            yield item


def _parse(root: Path, prompt: str, row: dict[str, str]) -> PromptedExample:
    """Raises ValueError or TypeError: an invalid class, timing or file name."""
    frame, audio = validate_file_name(Path(row["image_location"]).name), Path(row[PROMPT_COLUMN[prompt]] or "").name
    class_id = int(row["ade_class_id"])
    if not 0 <= class_id <= MAX_CLASS:
        raise ValueError(f"ade_class_id {class_id} is not 0 to {MAX_CLASS}")
    word_s = None
    if prompt == "speech" and audio:
        start_s, end_s = map(finite_float, json.loads(row["timing"]))
        if not 0 <= start_s <= end_s:
            raise ValueError(f"timing {row['timing']}")
        word_s = start_s, end_s
    return PromptedExample(
        root / "frames" / frame,
        root / "annotations" / f"{Path(frame).stem}_seg.png",
        root / "audio" / (validate_file_name(audio) if audio else ""),
        class_id,
        word_s,
    )


def _reason_to_skip(item: PromptedExample) -> str | None:
    reasons = {
        "class_0": not item.class_id,
        "no_prompt_file": not item.audio.is_file(),
        "no_image_or_annotation": not (item.frame.is_file() and item.annotation.is_file()),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def read_class_names(path: Path) -> dict[int, str]:
    """Unique names by class number; {} if the file does not exist.

    Raises:
        UsageError: a missing column, or an invalid class number.
    """
    if not path.is_file():
        return {}
    names = dict(csv_rows(path, ("ade_class_id", "name"), lambda row: (int(row["ade_class_id"]), row["name"])))
    counts = Counter(names.values())
    return {class_id: f"{name} (class {class_id})" if counts[name] > 1 else name for class_id, name in names.items()}


def read_frame(path: Path, size_px: int) -> UInt8[Tensor, "3 H_px W_px"]:
    """A frame, its short side resized to `size_px` and cropped to a centered square.

    Raises:
        UsageError: not a complete image.
    """
    with open_image(path) as image:
        pixels = torch.from_numpy(np.array(upright_rgb(image)))
    return resize_center_crop(pixels.permute(2, 0, 1), size_px)


def read_labels(item: PromptedExample, size_px: int) -> Int[Tensor, "H_px W_px"]:
    """int32: the class of each pixel, in the geometry of `read_frame`, nearest neighbor; 0 is unlabeled.

    Raises:
        UsageError: not a complete image, or of another size than the frame.
    """
    with open_image(item.annotation) as image:
        rgb = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).to(torch.int32)
    with open_image(item.frame) as frame:
        width_px, height_px = frame.size
    if rgb.shape[-2:] != (height_px, width_px):
        raise UsageError(
            f"{item.annotation} is {rgb.shape[-1]} x {rgb.shape[-2]} px, but its image {item.frame} is {width_px} x "
            f"{height_px} px upright"
        )
    classes = (rgb[0] // 10 * 256 + rgb[1])[None]
    if min(classes.shape[-2:]) != size_px:
        classes = functional.resize(classes, [size_px], interpolation=InterpolationMode.NEAREST)
    return functional.center_crop(classes, [size_px, size_px])[0]


def read_target(item: PromptedExample, size_px: int) -> Bool[np.ndarray, "H_px W_px"]:
    """True at the pixels of the item's class. Args and Raises as `read_labels`."""
    return (read_labels(item, size_px) == item.class_id).numpy()
