"""Extended VGG-SS and Extended Flickr-SoundNet: the same pictures, and as many whose sound has no source in view.

Folder: that of eval.benchmarks.localization.vgg_ss or flickr_soundnet, and in it
    metadata/vggss_test_plus_silent.csv  or  metadata/flickr_test_plus_silent.csv      columns video, audio, label; label is non-sounding

frames/VIDEO.jpg and audio/AUDIO.wav of each such row lie beside the others. In the VGG-SS half most are of one clip in which the source is not
seen, in the Flickr half the picture is one of the others and the sound another video's.
Get it: the archives linked in the repository stoneMo/SLAVC, the two tables from kaistmm/SSLalignment, metadata/ (neither README names terms; those
of the sets they extend hold).

Source: Mo and Morgado, A Closer Look at Weakly-Supervised Audio-Visual Source Localization, NeurIPS 2022.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from eval.benchmarks.localization.dataset import LocalizationExample, LocalizationSet, boxes_region
from eval.benchmarks.localization.flickr_soundnet import read_flickr_soundnet
from eval.benchmarks.localization.vgg_ss import read_vgg_ss
from eval.benchmarks.tables import csv_rows, find_table, validate_file_name

HEARD_S = 3.0
NOT_IN_VIEW = "non-sounding"
BASES = {"vggss": read_vgg_ss, "flickr": read_flickr_soundnet}


def read_extended(root: Path, base: str) -> LocalizationSet:
    """The items of `vggss` or `flickr`, then those without a source in view; rows whose files are missing are counted.

    Raises:
        UsageError: a table is missing or cannot be read, or not one usable row.
    """
    key = f"extended_{base}"
    visible, silent = BASES[base](root, key), LocalizationSet()
    table = find_table(
        key,
        root,
        f"metadata/{base}_test_plus_silent.csv",
        "metadata/, frames/ and audio/ with the added pictures and sounds",
    )
    for video, audio, label in csv_rows(table, ("video", "audio", "label"), _read):
        if label != NOT_IN_VIEW:
            continue
        item = LocalizationExample(
            id=f"{video}+{audio}",
            picture=root / "frames" / f"{video}.jpg",
            sound=root / "audio" / f"{audio}.wav",
            region=partial(boxes_region, []),
            label="",
            group=video,
            audio_window_s=HEARD_S,
            in_view=False,
        )
        silent.add(item)
    silent.require_nonempty(f"{table.name} of {key}", root)
    return LocalizationSet(visible.items + silent.items, visible.left_out + silent.left_out)


def _read(row: dict[str, str]) -> tuple[str, str, str]:
    return validate_file_name(row["video"]), validate_file_name(row["audio"]), row["label"]
