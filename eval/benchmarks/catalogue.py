"""What a reader must know of each benchmark: what it asks, how it is called, and on what terms its published data can be had.

The terms are what we found stated, or believe; who uses the data has to look for himself. Details: the modules of eval.benchmarks.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One benchmark: a question for headings, its name, the terms of its published data."""

    question: str
    name: str
    terms: str


_ADE20K = (
    "ADE20K: non-commercial research and education by its site's terms, we believe; the selection and the spoken words are of DenseAV's authors, for which we "
    "know of no stated terms; the sounds are VGGSound's."
)
_VGGSOUND = "VGGSound's list: CC BY 4.0, we believe; the videos belong to their uploaders."
_AVSBENCH = "AVSBench: its code is Apache 2.0, for the data we found no terms; frames and sounds come from its authors on request."
_IS3 = "IS3: generated pictures; the repository kaistmm/SSLalignment names no terms."
_VGGSS = "VGG-SS: its README names no terms. " + _VGGSOUND
_FLICKR = "Flickr-SoundNet: research only; the videos belong to their uploaders."
_EXTENDED = " The added pictures and tables (stoneMo/SLAVC, kaistmm/SSLalignment) name no terms."

BENCHMARKS = {
    "ade20k_speech": Entry("Where is what a spoken word names?", "speech-prompted ADE20K", _ADE20K),
    "ade20k_sound": Entry("Where does this sound come from?", "sound-prompted ADE20K", _ADE20K),
    "places_retrieval": Entry(
        "Which picture belongs to this caption?",
        "Places Audio retrieval",
        "Places Audio Captions: academic research only, we believe; pictures of Places205.",
    ),
    "audioset_retrieval": Entry(
        "Which picture belongs to this sound?",
        "AudioSet retrieval",
        "AudioSet's labels: CC BY 4.0; the videos belong to their uploaders.",
    ),
    "vggsound_retrieval": Entry("Which picture belongs to this sound?", "VGGSound retrieval", _VGGSOUND),
    "disentanglement": Entry(
        "Do the heads divide the work?",
        "disentanglement",
        "The pairs of Places Audio and AudioSet retrieval, on their terms.",
    ),
    "vggss": Entry("Where does this sound come from?", "VGG-SS", _VGGSS),
    "flickr_soundnet": Entry("Where does this sound come from?", "Flickr-SoundNet", _FLICKR),
    "is3": Entry("Which of two things sounds?", "IS3, boxes", _IS3),
    "is3_masks": Entry("Which of two things sounds?", "IS3, masks", _IS3),
    "avsbench_s4": Entry("What exactly sounds?", "AVSBench S4, one source", _AVSBENCH),
    "avsbench_ms3": Entry("What exactly sounds, second by second?", "AVSBench MS3, several sources", _AVSBENCH),
    "extended_vggss": Entry("Is the source in view at all?", "Extended VGG-SS", _VGGSS + _EXTENDED),
    "extended_flickr": Entry("Is the source in view at all?", "Extended Flickr-SoundNet", _FLICKR + _EXTENDED),
}


def entry(task: str) -> Entry:
    """Of a benchmark; one that has none is called by its key."""
    return BENCHMARKS.get(task, Entry(task, task, ""))
