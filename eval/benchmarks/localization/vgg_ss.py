"""VGG-SS: one frame of a VGGSound clip with boxes around the sources of its audio.

Folder:
    metadata/vggss.json    list of {"file": "YTID_SSSSSS", "class": "dog barking", "bbox": [[x0, y0, x1, y1], ...]},
                           corners as fractions of the sides
    frames/FILE.jpg        the middle frame of the clip
    audio/FILE.wav         its ten seconds of audio

5,158 rows. Boxes are clipped to the image; the region is their union. Rows whose boxes are all empty are kept, as
published: no map can find them, and `without_a_region` counts them. The model gets the middle 3 s of the audio.
Get it: vggss.json from the repository hche11/Localizing-Visual-Sounds-the-Hard-Way, the clips from YouTube by
VGGSound's list.

Source: Chen et al., Localizing Visual Sounds the Hard Way, CVPR 2021; reference 2.
"""

from functools import partial
from pathlib import Path
from typing import Any

from eval.benchmarks.io import find_table, json_rows, validate_file_name
from eval.benchmarks.localization.benchmark import localization_kind
from eval.benchmarks.localization.dataset import Box, LocalizationExample, LocalizationSet, boxes_region, parse_box
from eval.benchmarks.localization.metrics import CIoUMetrics
from eval.metrics.localization import SIDE_PX
from eval.results import BenchmarkInfo

TERMS = "VGG-SS: its README states none. VGGSound's list: CC BY 4.0, we believe; the videos belong to their uploaders."


def read_vgg_ss(root: Path) -> LocalizationSet:
    """The rows of the table whose files exist.

    Raises:
        UsageError: a missing or invalid table, or no usable row.
    """
    table = find_table(root, "metadata/vggss.json", "frames/ and audio/")
    data = LocalizationSet()
    for name, label, boxes in json_rows(table, '{"file", "class", "bbox": [[x0, y0, x1, y1], ...]}', _parse):
        image, audio = root / "frames" / f"{name}.jpg", root / "audio" / f"{name}.wav"
        data.add(LocalizationExample(name, image, audio, partial(boxes_region, boxes), label, name))
    return data.require_nonempty(root)


def _parse(row: dict[str, Any]) -> tuple[str, str, list[Box]]:
    return validate_file_name(row["file"]), str(row["class"]), [parse_box(corners, SIDE_PX) for corners in row["bbox"]]


VGG_SS = localization_kind(
    BenchmarkInfo("Where does this sound come from?", "VGG-SS", TERMS), "vggss", read_vgg_ss, CIoUMetrics()
)
