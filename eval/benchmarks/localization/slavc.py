"""Extended VGG-SS and Extended Flickr-SoundNet: the original items, and as many whose audio has no source in view.

Folder: that of eval.benchmarks.localization.vgg_ss or flickr_soundnet, and in it
    metadata/vggss_test_plus_silent.csv or metadata/flickr_test_plus_silent.csv      columns video, audio, label

The added rows are those with label non-sounding; frames/VIDEO.jpg and audio/AUDIO.wav of each lie beside the others. In
VGG-SS most of them come from one clip whose source is not in the frame, in Flickr-SoundNet the image is one of the
original ones and the audio another video's.
Get it: the archives linked in the repository stoneMo/SLAVC, the two tables from kaistmm/SSLalignment, metadata/.

Source: Mo and Morgado, A Closer Look at Weakly-Supervised Audio-Visual Source Localization, NeurIPS 2022.
"""

from functools import partial
from pathlib import Path

from eval.benchmarks.io import csv_rows, find_table, validate_file_name
from eval.benchmarks.localization import flickr_soundnet, vgg_ss
from eval.benchmarks.localization.benchmark import localization_kind
from eval.benchmarks.localization.dataset import LocalizationExample, LocalizationSet, boxes_region
from eval.benchmarks.localization.metrics import DetectionMetrics
from eval.results import BenchmarkInfo

NOT_IN_VIEW = "non-sounding"
READERS = {"vggss": vgg_ss.read_vgg_ss, "flickr": flickr_soundnet.read_flickr_soundnet}
QUESTION = "Is the source in view at all?"
ADDED_TERMS = " The added images and tables (stoneMo/SLAVC, kaistmm/SSLalignment) state no terms."


def read_extended(root: Path, base: str) -> LocalizationSet:
    """The items of `vggss` or `flickr`, then those without a source in view; rows whose files are missing are counted.

    Raises:
        UsageError: a missing or invalid table, or no usable row in one of them.
    """
    visible, silent = READERS[base](root), LocalizationSet()
    table = find_table(
        root, f"metadata/{base}_test_plus_silent.csv", "metadata/, frames/ and audio/ with the added images and audio"
    )
    for video, audio, label in csv_rows(table, ("video", "audio", "label"), _parse):
        if label == NOT_IN_VIEW:
            silent.add(
                LocalizationExample(
                    id=f"{video}+{audio}",
                    image=root / "frames" / f"{video}.jpg",
                    audio=root / "audio" / f"{audio}.wav",
                    region=partial(boxes_region, []),
                    label="",
                    group=video,
                    in_view=False,
                )
            )
    silent.require_nonempty(table)
    return LocalizationSet(visible.items + silent.items, visible.left_out + silent.left_out)


def _parse(row: dict[str, str]) -> tuple[str, str, str]:
    return validate_file_name(row["video"]), validate_file_name(row["audio"]), row["label"]


EXTENDED_VGGSS = localization_kind(
    BenchmarkInfo(QUESTION, "Extended VGG-SS", vgg_ss.TERMS + ADDED_TERMS),
    "extended_vggss",
    partial(read_extended, base="vggss"),
    DetectionMetrics(),
)
EXTENDED_FLICKR = localization_kind(
    BenchmarkInfo(QUESTION, "Extended Flickr-SoundNet", flickr_soundnet.TERMS + ADDED_TERMS),
    "extended_flickr",
    partial(read_extended, base="flickr"),
    DetectionMetrics(),
)
