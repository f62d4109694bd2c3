"""IS3, Interactive Synthetic Sound Source: a generated picture of two things, once for the sound of each.

Folder:
    metadata/synthetic3240_bbox.json    list of {"image": ".../NAME.jpg", "audio": ".../NAME.wav", "gt_box": [x0, y0, x1, y1]}, pixels of 224 x 224
    metadata/synthetic3240_seg.json     the same, with "gt_box": ".../NAME.jpg", a mask
    visual_frames/NAME.jpg  audio_wav/NAME.wav  gt_masks/NAME.jpg      found by the base names of the paths in the tables

NAME is THING_OTHERTHING_NUMBER_TARGET; names that differ in the last part alone show the same picture. 6,480 rows, 3,240 pictures. A mask's pixel
belongs to the region from 128 of 255 on. Where files of one prompt are missing, the other prompt of the picture is left out too. What lies outside
the middle 3 s of the sound is not heard.
Get it: the archive linked in the repository kaistmm/SSLalignment, tables in its metadata/ (its README names no terms).

Source: Senocak et al., Aligning Sight and Sound, 2024; reference 2.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from eval.benchmarks.localization.dataset import LocalizationExample, LocalizationSet, boxes_region, mask_region
from eval.benchmarks.tables import find_table, finite, json_rows, validate_file_name

HEARD_S = 3.0
MASK_FROM = 128


def read_is3(root: Path, masks: bool, key: str = "is3") -> LocalizationSet:
    """The rows of the table of boxes, or of masks, whose files are there.

    Raises:
        UsageError: no table, one that cannot be read, or not one usable row.
    """
    name = "metadata/synthetic3240_seg.json" if masks else "metadata/synthetic3240_bbox.json"
    table = find_table(key, root, name, "visual_frames/, audio_wav/" + (" and gt_masks/" if masks else ""))
    wanted = '{"image", "audio", "gt_box": ' + ("path of a mask}" if masks else "[x0, y0, x1, y1]}")
    found, prompts = LocalizationSet(), defaultdict(set)
    for row in json_rows(table, wanted, _read_mask if masks else _read_box):
        picture = root / "visual_frames" / row.image
        mask = root / "gt_masks" / row.truth if masks else None
        pair, _, target = picture.stem.rpartition("_")
        item = LocalizationExample(
            id=picture.stem,
            picture=picture,
            sound=root / "audio_wav" / row.audio,
            region=partial(mask_region, mask, picture, MASK_FROM) if mask else partial(boxes_region, [row.truth]),
            label=target,
            group=pair,
            audio_window_s=HEARD_S,
        )
        prompts[pair].add(item.id)
        found.add(item, mask)
    there = Counter(item.group for item in found.items)
    whole = [item for item in found.items if there[item.group] == len(prompts[item.group])]
    return LocalizationSet(
        whole, found.left_out + Counter(no_other_prompt=len(found.items) - len(whole))
    ).require_nonempty(key, root)


class _Row(NamedTuple):
    image: str
    audio: str
    truth: Any


def _read_box(row: dict[str, Any]) -> _Row:
    left, top, right, bottom = (int(finite(corner)) for corner in row["gt_box"])
    return _Row(_base_name(row["image"]), _base_name(row["audio"]), (left, top, right, bottom))


def _read_mask(row: dict[str, Any]) -> _Row:
    return _Row(_base_name(row["image"]), _base_name(row["audio"]), _base_name(row["gt_box"]))


def _base_name(path: str) -> str:
    return validate_file_name(path.rpartition("/")[2])
