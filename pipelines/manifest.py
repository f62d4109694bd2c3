"""A clip: what a source yields, what makes it acceptable, and the reasons for which it may be turned away.

Every row of a source ends in exactly one place: in a shard, or as `Rejected` with one of REASONS in the ledger beside it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

MAX_ID_LENGTH = 80  # so that `ID.json` and the like fit the 100 bytes of a plain tar header
_ID = re.compile(r"[A-Za-z0-9_-]+")

REASONS = {
    "bad_row": "the table's line is not what the layout says",
    "bad_id": f"the id is not 1 to {MAX_ID_LENGTH} of A-Z a-z 0-9 _ -",
    "bad_path": "the media path leads out of the source's folder",
    "bad_times": "the segment is not 0 <= start_s < end_s",
    "duplicate_id": "an earlier row has the same id",
    "missing": "there is no such file",
    "unreadable": "the file does not open, does not decode or ends too early",
    "no_video": "there is no picture",
    "no_audio": "there is no sound",
    "outside_file": "the segment starts after the end of the file",
    "too_short": "the clip is shorter than decode.min_duration_s",
    "silent": "the sound stays below -60 dB of full scale",
    "static": "nothing moves in the picture",
    "timed_out": "decoding took longer than decode.cpu_limit_s, twice",
    "crashed": "decoding ended the process, twice",
    "failed": "decoding met an error that nobody foresaw; its name is in the detail",
}


@dataclass(frozen=True)
class Clip:
    """One row: a stretch of a file with picture and sound.

    Attributes:
        id: unique in its data set; the key of its members in a shard.
        media: video file, or sound file when `image` is given; below the source's root, with forward slashes.
        image: picture file below the root; "": the picture comes from `media`.
        start_s, end_s: the segment, in seconds from the start of the file; end_s = 0: until the end of the file.
        split, source: where the row comes from.
        labels: class names or ids; may be empty.
        text: caption; may be empty.
        words: the words that are said, each with its start and end in seconds from the start of the file; may be empty.
    """

    id: str
    media: str
    image: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    split: str = "train"
    source: str = ""
    labels: tuple[str, ...] = ()
    text: str = ""
    words: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True)
class Rejected:
    """A row that did not become a clip of a shard, and why: a key of REASONS, and a detail for people."""

    id: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        assert self.reason in REASONS, self.reason


class StorageError(Exception):
    """The storage has failed, not the clip: nothing can be said of the clip, and the job has to be run again."""


class RejectedClip(Exception):
    """Raised where a clip turns out unusable; becomes a `Rejected` in the ledger."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        assert reason in REASONS, reason
        self.reason, self.detail = reason, detail


def is_id(text: str) -> bool:
    """Whether a text may be a clip's id (webdataset splits keys at the first dot, so there is none in it)."""
    return len(text) <= MAX_ID_LENGTH and _ID.fullmatch(text) is not None


def check(clip: Clip) -> Clip | Rejected:
    """A clip as it is, or turned away for what its row alone tells."""
    if not is_id(clip.id):
        return Rejected(clip.id, "bad_id", REASONS["bad_id"])
    for path in filter(None, (clip.media, clip.image)):
        if not _stays_inside(path):
            return Rejected(clip.id, "bad_path", path)
    if not clip.media:
        return Rejected(clip.id, "bad_path", "the row names no media file")
    if not (
        math.isfinite(clip.start_s)
        and math.isfinite(clip.end_s)
        and clip.start_s >= 0
        and (clip.end_s == 0 or clip.end_s > clip.start_s)
    ):
        return Rejected(clip.id, "bad_times", f"from {clip.start_s} s to {clip.end_s} s")
    return clip


def _stays_inside(path: str) -> bool:
    return "\0" not in path and not path.startswith("/") and ".." not in path.split("/")
