"""AVSBench-object: five frames of a 5 s video, one per second, each with an exact mask of the audible sources.

Folder, S4 (one source) and MS3 (several, not all of them audible all the time):
    Single-source/s4_meta_data.csv      columns: the first is the video's name; split, category
    Single-source/s4_data/visual_frames/test/CATEGORY/NAME/NAME_K.png      K = 1 to 5
    Single-source/s4_data/gt_masks/test/CATEGORY/NAME/NAME_K.png
    Single-source/s4_data/audio_wav/test/CATEGORY/NAME.wav
    Multi-sources/ms3_meta_data.csv     columns: the first is the video's name; split
    Multi-sources/ms3_data/visual_frames/NAME/NAME.mp4_K.png
    Multi-sources/ms3_data/gt_masks/test/NAME/NAME_K.png
    Multi-sources/ms3_data/audio_wav/test/NAME.wav

Test split: 740 videos (S4), 64 (MS3). The region of a mask is its pixels that are not black; it can be empty. The model
gets all 5 s of audio (one with a shorter input: as much around the second as it takes), and the map of frame K is that
of second K.
Get it: masks and tables linked in the repository OpenNLPLab/AVSBench, frames and audio from its authors on request.

Source: Zhou et al., Audio-Visual Segmentation, ECCV 2022; reference 2.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from eval.benchmarks.io import csv_rows, find_table, validate_file_name
from eval.benchmarks.localization.benchmark import localization_kind
from eval.benchmarks.localization.dataset import LocalizationExample, LocalizationSet, mask_region
from eval.benchmarks.localization.metrics import MaskMetrics
from eval.results import BenchmarkInfo

AUDIO_WINDOW_S = 5.0
FRAMES = 5
SPLIT = "test"
TERMS = (
    "AVSBench: its code is Apache 2.0, for the data we found no terms; frames and audio come from its authors on "
    "request."
)


class _Layout(NamedTuple):
    table: str
    data: str
    columns: tuple[str, ...]
    frames: str
    audio: str
    masks: str


LAYOUTS = {
    "s4": _Layout(
        "Single-source/s4_meta_data.csv", "Single-source/s4_data", ("split", "category"),
        "visual_frames/test/{category}/{name}/{name}", "audio_wav/test/{category}/{name}.wav",
        "gt_masks/test/{category}/{name}/{name}",
    ),
    "ms3": _Layout(
        "Multi-sources/ms3_meta_data.csv", "Multi-sources/ms3_data", ("split",),
        "visual_frames/{name}/{name}.mp4", "audio_wav/test/{name}.wav", "gt_masks/test/{name}/{name}",
    ),
}  # fmt: skip


def read_avsbench(root: Path, part: str) -> LocalizationSet:
    """The frames of the test videos of `s4` or `ms3` whose files exist.

    Raises:
        UsageError: a missing or invalid table, or no usable frame.
    """
    layout = LAYOUTS[part]
    table, folder = find_table(root, layout.table, layout.data + "/"), root / layout.data
    data = LocalizationSet()
    for names in csv_rows(table, layout.columns, partial(_parse, layout.columns)):
        if names["split"] != SPLIT:
            continue
        frames, audio, masks = (folder / path.format(**names) for path in (layout.frames, layout.audio, layout.masks))
        video = "/".join(names[column] for column in ("category", "name") if column in names)
        label = names.get("category", "").replace("_", " ")
        for second in range(FRAMES):
            image, mask = (stem.with_name(f"{stem.name}_{second + 1}.png") for stem in (frames, masks))
            region = partial(mask_region, mask, image, 1)
            item = LocalizationExample(
                f"{video}_{second + 1}", image, audio, region, label, video, AUDIO_WINDOW_S, second
            )
            data.add(item, mask)
    return data.require_nonempty(root)


def _parse(columns: tuple[str, ...], row: dict[str, str]) -> dict[str, str]:
    first = next(iter(row.values()))
    return {"name": validate_file_name(first)} | {column: validate_file_name(row[column]) for column in columns}


AVSBENCH_S4 = localization_kind(
    BenchmarkInfo("Which pixels make this sound?", "AVSBench S4, one source", TERMS),
    "avsbench",
    partial(read_avsbench, part="s4"),
    MaskMetrics(),
)
AVSBENCH_MS3 = localization_kind(
    BenchmarkInfo("Which pixels make this sound, second by second?", "AVSBench MS3, several sources", TERMS),
    "avsbench",
    partial(read_avsbench, part="ms3"),
    MaskMetrics(),
)
