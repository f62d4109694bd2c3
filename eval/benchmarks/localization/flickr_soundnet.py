"""Flickr-SoundNet: a frame of a Flickr video, the boxes of three annotators.

Folder:
    metadata/flickr_test.csv    no header; the first column is the ID of one of the 250 test pictures
    Annotations/ID.xml          elements named bbox; the children of each: anything, then xmin, ymin, xmax, ymax in pixels of 256 x 256
    frames/ID.jpg
    audio/ID.wav

The region is the sum of the boxes over 2, cut at 1: a pixel that two of three marked is certain. What lies outside the middle 3 s is not heard.
Get it: pictures, sounds and annotations by the repository ardasnck/learning_to_localize_sound_source (research only; the videos belong to their
uploaders), flickr_test.csv from stoneMo/EZ-VSL. The names of elements other than bbox are not known to us; only their order is used.

Source: Senocak et al., Learning to Localize Sound Source in Visual Scenes, CVPR 2018; reference 2.
"""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from configs.errors import UsageError
from eval.benchmarks.localization.dataset import Box, LocalizationExample, LocalizationSet, boxes_region
from eval.benchmarks.tables import find_table, finite, validate_file_name
from eval.metrics.localization import SIDE_PX

HEARD_S = 3.0
ANNOTATED_SIDE_PX = 256
ANNOTATORS_NEEDED = 2


def read_flickr_soundnet(root: Path, key: str = "flickr_soundnet") -> LocalizationSet:
    """The rows of the table whose files are there.

    Raises:
        UsageError: no table, one that cannot be read, or not one usable row.
    """
    table = find_table(key, root, "metadata/flickr_test.csv", "Annotations/, frames/ and audio/")
    found = LocalizationSet()
    for name in _ids(table):
        annotation = root / "Annotations" / f"{name}.xml"
        item = LocalizationExample(
            id=name,
            picture=root / "frames" / f"{name}.jpg",
            sound=root / "audio" / f"{name}.wav",
            region=partial(_region, annotation),
            label="",
            group=name,
            audio_window_s=HEARD_S,
        )
        found.add(item, annotation)
    return found.require_nonempty(key, root)


def read_boxes(path: Path) -> list[Box]:
    """The boxes of all annotators, in pixels of 224 x 224.

    Raises:
        UsageError: not such a file, or one with a document type (entities could make it endless).
    """
    try:
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_WithoutDoctype()))
        return [_box([child.text for child in box][1:]) for box in root.iter("bbox")]
    except (ElementTree.ParseError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise UsageError(
            f"{path} is not an annotation ({error}); a bbox has five children, the last four xmin, ymin, xmax, ymax"
        ) from None


class _WithoutDoctype(ElementTree.TreeBuilder):
    def doctype(self, name: str, *_: Any) -> None:
        raise ValueError(f"it declares a document type, {name}")


def _box(corners: list[str | None]) -> Box:
    left, top, right, bottom = (int(finite(corner) * SIDE_PX / ANNOTATED_SIDE_PX) for corner in corners)
    return left, top, right, bottom


def _region(annotation: Path) -> torch.Tensor:
    return boxes_region(read_boxes(annotation), ANNOTATORS_NEEDED)


def _ids(table: Path) -> list[str]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return [validate_file_name(row[0]) for row in csv.reader(file) if row]
    except (csv.Error, ValueError) as error:
        raise UsageError(f"{table}: {error}; the first column holds IDs of pictures") from None
