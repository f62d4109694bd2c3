"""The row of a clip, as every data set layout yields it, its validation, and the reasons for rejecting it.

Every row of a source ends in exactly one place: in a shard, or as a `Rejected` with one of REASONS in the list of
rejected clips (rejected.jsonl).
"""

import dataclasses
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

MAX_ID_LENGTH = 80  # keeps member names such as ID.json within the 100 bytes of a plain tar header
_ID = re.compile(r"[A-Za-z0-9_-]+")

REASONS = {
    "bad_row": "the line of the table does not have the published form",
    "bad_id": f"the id is not 1 to {MAX_ID_LENGTH} of A-Z a-z 0-9 _ -",
    "bad_path": "the media path leaves the folder of the source",
    "bad_times": "the segment is not 0 <= start_s < end_s",
    "duplicate_id": "an earlier row has the same id",
    "missing": "the media file does not exist",
    "unreadable": "the media file does not open, does not decode, or is truncated",
    "no_video": "the media file has no video frames in the segment",
    "no_audio": "the media file has no audio in the segment",
    "outside_file": "the segment starts after the end of the file",
    "too_short": "the clip is shorter than decode.min_duration_s",
    "not_finite": "the audio has NaN or infinite samples",
    "silent": "the audio stays below -60 dBFS",
    "static": "the frames do not change",
    "timed_out": "decoding took longer than decode.cpu_limit_s, twice",
    "crashed": "decoding crashed its process, twice",
    "failed": "decoding raised an unexpected exception, named in the detail",
}


@dataclass(frozen=True)
class Clip:
    """One row: a segment of a media file.

    Attributes:
        id: unique in its data set; the key of its members in a shard.
        media: video file, or audio file when `image` is given; relative to the root of the source, with forward
            slashes.
        image: image file relative to the root; "": the frames come from `media`.
        start_s, end_s: the segment, in seconds from the start of the file; end_s = 0 means the end of the file.
        split, source: the split and the data set that the row comes from.
        labels: class names or ids; may be empty.
        text: caption; may be empty.
        words: the spoken words, each with its start and end in seconds from the start of the file; may be empty.
        alternatives: other paths of the media file, tried in order where `media` does not exist; may be empty.
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
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """A row that is not written to a shard.

    The detail of a row rejected before decoding (bad_*, duplicate_id) is part of `rows_sha256` in build.json: rewording
    such a text makes every unfinished build refuse to resume.

    Attributes:
        id: id of the row, or the start of its line when it has none.
        reason: a key of REASONS.
        detail: explanation for the user.
    """

    id: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        assert self.reason in REASONS, self.reason


class StorageError(Exception):
    """The file system failed, so the clip can neither be used nor rejected, and the job has to be run again."""


class RejectedClip(Exception):
    """Raised while decoding a clip that cannot be used; becomes a `Rejected` in the list of rejected clips."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        assert reason in REASONS, reason
        self.reason, self.detail = reason, detail


def is_id(text: str) -> bool:
    """Whether a text is a valid clip id. Dots are not allowed, because webdataset splits keys at the first dot."""
    return len(text) <= MAX_ID_LENGTH and _ID.fullmatch(text) is not None


def check(clip: Clip) -> Clip | Rejected:
    """Validate a row without opening its media.

    Returns:
        The clip itself, or a `Rejected` with reason bad_id, bad_path or bad_times.
    """
    if not is_id(clip.id):
        return Rejected(clip.id, "bad_id", REASONS["bad_id"])
    for path in filter(None, (clip.media, clip.image, *clip.alternatives)):
        if "\0" in path or path.startswith("/") or ".." in path.split("/"):
            return Rejected(clip.id, "bad_path", path)
    if not clip.media:
        return Rejected(clip.id, "bad_path", "the row names no media file")
    is_finite = math.isfinite(clip.start_s) and math.isfinite(clip.end_s)
    if not is_finite or clip.start_s < 0 or (clip.end_s != 0 and clip.end_s <= clip.start_s):
        return Rejected(clip.id, "bad_times", f"from {clip.start_s} s to {clip.end_s} s")
    return clip


def with_existing_media(clip: Clip, root: Path) -> Clip:
    """The clip with the first of its media paths that exists below the root; unchanged if none does."""
    for media in (clip.media, *clip.alternatives) if clip.alternatives else ():
        if os.path.exists(root / media):  # noqa: PTH110 - False for a name that is too long
            return dataclasses.replace(clip, media=media)
    return clip
