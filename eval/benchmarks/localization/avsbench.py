"""AVSBench-object: five frames of a 5 s video, one a second, each with an exact mask of what sounds in that second.

Folder, S4 (one source) and MS3 (several, not all of them sounding all the time):
    Single-source/s4_meta_data.csv      columns: the first is the video's name; split, category
    Single-source/s4_data/visual_frames/test/CATEGORY/NAME/NAME_K.png      gt_masks/test/CATEGORY/NAME/NAME_K.png      K = 1 to 5
    Single-source/s4_data/audio_wav/test/CATEGORY/NAME.wav
    Multi-sources/ms3_meta_data.csv     columns: the first is the video's name; split
    Multi-sources/ms3_data/visual_frames/NAME/NAME.mp4_K.png               gt_masks/test/NAME/NAME_K.png
    Multi-sources/ms3_data/audio_wav/test/NAME.wav

Test split: 740 videos (S4), 64 (MS3). A mask's pixel belongs to the region where it is not black; a frame may have none. All 5 s are heard (by a model
with a shorter input: as much around the second as it takes), the map of frame K is that of second K.
Get it: masks and tables linked in the repository OpenNLPLab/AVSBench (its code: Apache 2.0; for the data we found no terms), frames and sounds from its
authors on request.

Source: Zhou et al., Audio-Visual Segmentation, ECCV 2022; reference 2.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

from eval.benchmarks.localization.dataset import LocalizationExample, LocalizationSet, mask_region
from eval.benchmarks.tables import csv_rows, find_table, validate_file_name

HEARD_S = 5.0
FRAMES = 5
SPLIT = "test"


class _Layout(NamedTuple):
    table: str
    data: str
    columns: tuple[str, ...]
    frames_of: str
    sound_of: str
    masks_of: str


LAYOUTS = {
    "s4": _Layout(
        "Single-source/s4_meta_data.csv", "Single-source/s4_data", ("split", "category"),
        "visual_frames/test/{category}/{name}/{name}", "audio_wav/test/{category}/{name}.wav", "gt_masks/test/{category}/{name}/{name}",
    ),
    "ms3": _Layout(
        "Multi-sources/ms3_meta_data.csv", "Multi-sources/ms3_data", ("split",),
        "visual_frames/{name}/{name}.mp4", "audio_wav/test/{name}.wav", "gt_masks/test/{name}/{name}",
    ),
}  # fmt: skip


def read_avsbench(root: Path, part: str, key: str = "avsbench") -> LocalizationSet:
    """The frames of the test videos of `s4` or `ms3` whose files are there.

    Raises:
        UsageError: no table, one that cannot be read, or not one usable frame.
    """
    layout = LAYOUTS[part]
    table, data = find_table(key, root, layout.table, layout.data + "/"), root / layout.data
    found = LocalizationSet()
    for names in csv_rows(table, layout.columns, partial(_read, layout.columns)):
        if names["split"] != SPLIT:
            continue
        frames, sound, masks = (
            data / pattern.format(**names) for pattern in (layout.frames_of, layout.sound_of, layout.masks_of)
        )
        video = "/".join(names[part] for part in ("category", "name") if part in names)
        for second in range(FRAMES):
            picture, mask = (stem.with_name(f"{stem.name}_{second + 1}.png") for stem in (frames, masks))
            item = LocalizationExample(
                id=f"{video}_{second + 1}",
                picture=picture,
                sound=sound,
                region=partial(mask_region, mask, picture, 1),
                label=names.get("category", "").replace("_", " "),
                group=video,
                audio_window_s=HEARD_S,
                second=second,
            )
            found.add(item, mask)
    return found.require_nonempty(key, root)


def _read(columns: tuple[str, ...], row: dict[str, str]) -> dict[str, str]:
    return {"name": validate_file_name(next(iter(row.values())))} | {
        column: validate_file_name(row[column]) for column in columns
    }
