"""IS3, Interactive Synthetic Sound Source: a generated image of two objects, prompted with the sound of each.

Folder:
    metadata/synthetic3240_bbox.json    list of {"image": ".../NAME.jpg", "audio": ".../NAME.wav",
                                        "gt_box": [x0, y0, x1, y1]}, in pixels of 224 x 224
    metadata/synthetic3240_seg.json     the same, with "gt_box": ".../NAME.jpg", a mask
    visual_frames/NAME.jpg  audio_wav/NAME.wav  gt_masks/NAME.jpg       found by the base names in the tables

NAME is OBJECT_OTHEROBJECT_NUMBER_TARGET; names that differ only in the last part show the same image. 6,480 rows, 3,240
images. The region of a mask is its pixels of 128 or more of 255. Where files of one prompt are missing, the other
prompt of the image is left out too. The model gets the middle 3 s of the audio.
Get it: the archive linked in the repository kaistmm/SSLalignment, tables in its metadata/.

Source: Senocak et al., Aligning Sight and Sound, 2024; reference 2.
"""

from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from eval.benchmarks.io import find_table, json_rows, validate_file_name
from eval.benchmarks.localization.benchmark import localization_kind
from eval.benchmarks.localization.dataset import (
    Box,
    LocalizationExample,
    LocalizationSet,
    boxes_region,
    mask_region,
    parse_box,
)
from eval.benchmarks.localization.metrics import CIoUMetrics
from eval.results import BenchmarkInfo

MASK_THRESHOLD = 128
QUESTION = "Which of two objects makes this sound?"
TERMS = "IS3: generated images; the repository kaistmm/SSLalignment states no terms."


def read_is3(root: Path, masks: bool) -> LocalizationSet:
    """The rows of the table of boxes, or of masks, whose files exist.

    Raises:
        UsageError: a missing or invalid table, or no usable row.
    """
    name = "metadata/synthetic3240_seg.json" if masks else "metadata/synthetic3240_bbox.json"
    table = find_table(root, name, "visual_frames/, audio_wav/" + (" and gt_masks/" if masks else ""))
    row_format = '{"image", "audio", "gt_box": ' + ("path of a mask}" if masks else "[x0, y0, x1, y1]}")
    data, prompts = LocalizationSet(), defaultdict(set)
    for image_name, audio_name, truth in json_rows(table, row_format, partial(_parse, masks)):
        image, audio = root / "visual_frames" / image_name, root / "audio_wav" / audio_name
        mask: Path | None = None
        if isinstance(truth, str):
            mask = root / "gt_masks" / truth
            region = partial(mask_region, mask, image, MASK_THRESHOLD)
        else:
            region = partial(boxes_region, [truth])
        group, _, target = image.stem.rpartition("_")
        item = LocalizationExample(image.stem, image, audio, region, target, group)
        prompts[group].add(item.id)
        data.add(item, mask)
    usable = Counter(item.group for item in data.items)
    complete = [item for item in data.items if usable[item.group] == len(prompts[item.group])]
    left_out = data.left_out + Counter(no_other_prompt=len(data.items) - len(complete))
    return LocalizationSet(complete, left_out).require_nonempty(root)


def _parse(masks: bool, row: dict[str, Any]) -> tuple[str, str, Box | str]:
    truth = _base_name(row["gt_box"]) if masks else parse_box(row["gt_box"])
    return _base_name(row["image"]), _base_name(row["audio"]), truth


def _base_name(path: str) -> str:
    return validate_file_name(path.rpartition("/")[2])


IS3 = localization_kind(
    BenchmarkInfo(QUESTION, "IS3, boxes", TERMS), "is3", partial(read_is3, masks=False), CIoUMetrics(interactive=True)
)
IS3_MASKS = localization_kind(
    BenchmarkInfo(QUESTION, "IS3, masks", TERMS), "is3", partial(read_is3, masks=True), CIoUMetrics(interactive=True)
)
