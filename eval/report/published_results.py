"""Figures that others have reported, as data, to stand beside ours in reports. Only what was read: C in the authors' code or README, T on a third party's page.

Figures that nobody could verify are left out, DenseAV's own retrieval among them. A figure belongs to the published data: beside a toy twin, another
number of items or another gallery it says how hard the task is, not who is better.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

MARKS = {"C": "read in the authors' code or README", "T": "read on a third party's page"}


class Published(NamedTuple):
    """One figure.

    key: of ours that it stands beside, `task/variant/metric`. value: 0 to 1. system: who reports it. mark: one of MARKS. note: where it differs from ours.
    items: of the published set, where they are fixed; 0: not known or not comparable.
    """

    key: str
    value: float
    system: str
    mark: str
    note: str = ""
    items: int = 0


_THRESHOLD = "the threshold is not told; set beside the median one"
_GALLERY = "another gallery than DenseAV's 1,000 items; video to audio"
_VGGSS_ITEMS, _FLICKR_ITEMS = 5158, 250

FIGURES = (
    # reference 1.7; the paper reports advanced for speech, basic for sound
    Published("ade20k_speech/advanced/map", 0.487, "DenseAV", "T"),
    Published("ade20k_speech/advanced/map", 0.272, "CAV-MAE", "T"),
    Published("ade20k_speech/advanced/miou", 0.199, "CAV-MAE", "T"),
    Published("ade20k_sound/basic/map", 0.260, "CAV-MAE", "T"),
    Published("ade20k_sound/basic/miou", 0.389, "LeGrad + ImageBind (ICCV 2025)", "T"),
    Published("ade20k_sound/basic/miou", 0.242, "DenseAV", "T", "derived from what that page tells"),
    Published("ade20k_sound/basic/miou", 0.170, "CAV-MAE", "T"),
    # reference 2
    Published("vggss/median/ciou", 0.5476, "SouPLe", "T", _THRESHOLD, _VGGSS_ITEMS),
    Published("vggss/median/ciou", 0.4946, "ACL-SSL", "C", _THRESHOLD, _VGGSS_ITEMS),
    Published("vggss/median/ciou", 0.4142, "SSLAlign, pre-trained vision", "C", _THRESHOLD, _VGGSS_ITEMS),
    Published("vggss/median/ciou", 0.3994, "SSLAlign", "C", _THRESHOLD, _VGGSS_ITEMS),
    Published("flickr_soundnet/median/ciou", 0.8600, "SSLAlign, pre-trained vision", "C", _THRESHOLD, _FLICKR_ITEMS),
    Published("flickr_soundnet/median/ciou", 0.8520, "SSLAlign", "C", _THRESHOLD, _FLICKR_ITEMS),
    # reference 3
    Published("audioset_retrieval/image_to_audio/recall_at_1", 0.395, "VAB", "T", _GALLERY),
    Published("audioset_retrieval/image_to_audio/recall_at_1", 0.374, "TG-DP", "C", _GALLERY),
    Published("audioset_retrieval/image_to_audio/recall_at_1", 0.352, "CAV-MAE Sync", "C", _GALLERY),
    Published("audioset_retrieval/image_to_audio/recall_at_1", 0.221, "ImageBind", "T", _GALLERY),
    Published("vggsound_retrieval/image_to_audio/recall_at_1", 0.483, "PE-AV L", "C", _GALLERY),
    Published("vggsound_retrieval/image_to_audio/recall_at_1", 0.335, "VAB", "T", _GALLERY),
    Published("vggsound_retrieval/image_to_audio/recall_at_1", 0.313, "TG-DP", "C", _GALLERY),
    Published("vggsound_retrieval/image_to_audio/recall_at_1", 0.279, "CAV-MAE Sync", "C", _GALLERY),
    Published("vggsound_retrieval/image_to_audio/recall_at_1", 0.216, "ImageBind", "T", _GALLERY),
)


def beside(keys: Container[str]) -> list[Published]:
    """The figures of metrics that were measured."""
    return [figure for figure in FIGURES if figure.key in keys]
