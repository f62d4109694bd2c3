"""Flickr-SoundNet: a frame of a Flickr video with the boxes of three annotators.

Folder:
    metadata/flickr_test.csv    no header; the first column is the ID of one of the 250 test images
    Annotations/ID.xml          elements named bbox with five children: any, then xmin, ymin, xmax, ymax (256 x 256 px)
    frames/ID.jpg
    audio/ID.wav

The region is the sum of the boxes divided by 2, at most 1: a pixel that two of three annotators marked counts fully.
The model gets the middle 3 s. Only the order of the children of a bbox is used, because we do not know their names.
Get it: images, audio and annotations by the repository ardasnck/learning_to_localize_sound_source, flickr_test.csv from
stoneMo/EZ-VSL.

Source: Senocak et al., Learning to Localize Sound Source in Visual Scenes, CVPR 2018; reference 2.
"""

import csv
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from torch import Tensor

from configs.errors import UsageError
from eval.benchmarks.io import find_table, validate_file_name
from eval.benchmarks.localization.benchmark import localization_kind
from eval.benchmarks.localization.dataset import Box, LocalizationExample, LocalizationSet, boxes_region, parse_box
from eval.benchmarks.localization.metrics import CIoUMetrics
from eval.metrics.localization import SIDE_PX
from eval.results import BenchmarkInfo

ANNOTATED_SIDE_PX = 256
ANNOTATORS_NEEDED = 2
TERMS = "Flickr-SoundNet: research only; the videos belong to their uploaders."


def read_flickr_soundnet(root: Path) -> LocalizationSet:
    """The rows of the table whose files exist.

    Raises:
        UsageError: a missing or invalid table, or no usable row.
    """
    table = find_table(root, "metadata/flickr_test.csv", "Annotations/, frames/ and audio/")
    data = LocalizationSet()
    for name in _ids(table):
        annotation = root / "Annotations" / f"{name}.xml"
        image, audio = root / "frames" / f"{name}.jpg", root / "audio" / f"{name}.wav"
        data.add(LocalizationExample(name, image, audio, partial(_region, annotation), "", name), annotation)
    return data.require_nonempty(root)


def read_boxes(path: Path) -> list[Box]:
    """The boxes of all annotators, in pixels of 224 x 224.

    Raises:
        UsageError: not an annotation file, or one with a document type (its entities could expand without end).
    """
    try:
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_NoDoctype()))
        scale = SIDE_PX / ANNOTATED_SIDE_PX
        return [parse_box([child.text for child in box][1:], scale) for box in root.iter("bbox")]
    except (ElementTree.ParseError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise UsageError(
            f"{path} is not an annotation file ({error}); a bbox has five children, the last four xmin, ymin, xmax and "
            "ymax"
        ) from None


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, name: str, *_: Any) -> None:
        raise ValueError(f"it declares a document type, {name}")


def _region(annotation: Path) -> Tensor:
    return boxes_region(read_boxes(annotation), ANNOTATORS_NEEDED)


def _ids(table: Path) -> list[str]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return [validate_file_name(row[0]) for row in csv.reader(file) if row]
    except (csv.Error, ValueError) as error:
        raise UsageError(f"{table}: {error}; the first column must contain image IDs") from None


FLICKR_SOUNDNET = localization_kind(
    BenchmarkInfo("Where does this sound come from?", "Flickr-SoundNet", TERMS),
    "flickr_soundnet",
    read_flickr_soundnet,
    CIoUMetrics(),
)
