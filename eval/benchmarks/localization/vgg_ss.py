"""VGG-SS: one frame of a VGGSound clip, boxes around what sounds in it.

Folder:
    metadata/vggss.json    list of {"file": "YTID_SSSSSS", "class": "dog barking", "bbox": [[x0, y0, x1, y1], ...]}, corners as shares of the sides
    frames/FILE.jpg        the middle frame of the clip
    audio/FILE.wav         its ten seconds of sound

5,158 rows. Boxes are cut at the border of the picture; the region is their union. Rows without a box that spans a pixel stay in, as published: no map
can find them, and `without_a_region` counts them. What lies outside the middle 3 s of the sound is not heard.
Get it: vggss.json from the repository hche11/Localizing-Visual-Sounds-the-Hard-Way (its README names no terms), the clips from YouTube by VGGSound's
list (VGGSound: CC BY 4.0, we believe; the videos belong to their uploaders).

Source: Chen et al., Localizing Visual Sounds the Hard Way, CVPR 2021; reference 2.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from eval.benchmarks.localization.dataset import Box, LocalizationExample, LocalizationSet, boxes_region
from eval.benchmarks.tables import find_table, finite, json_rows, validate_file_name
from eval.metrics.localization import SIDE_PX

HEARD_S = 3.0


def read_vgg_ss(root: Path, key: str = "vggss") -> LocalizationSet:
    """The rows of the table whose files are there.

    Raises:
        UsageError: no table, one that cannot be read, or not one usable row.
    """
    table = find_table(key, root, "metadata/vggss.json", "frames/ and audio/")
    found = LocalizationSet()
    for name, label, boxes in json_rows(table, '{"file", "class", "bbox": [[x0, y0, x1, y1], ...]}', _read):
        item = LocalizationExample(
            id=name,
            picture=root / "frames" / f"{name}.jpg",
            sound=root / "audio" / f"{name}.wav",
            region=partial(boxes_region, boxes),
            label=label,
            group=name,
            audio_window_s=HEARD_S,
        )
        found.add(item)
    return found.require_nonempty(key, root)


def _read(row: dict[str, Any]) -> tuple[str, str, list[Box]]:
    return validate_file_name(row["file"]), str(row["class"]), [_box(corners) for corners in row["bbox"]]


def _box(corners: Any) -> Box:
    left, top, right, bottom = (int(finite(corner) * SIDE_PX) for corner in corners)
    return left, top, right, bottom
