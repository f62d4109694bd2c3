"""A plain folder of videos: every video file below the root is one clip.

    ROOT/ANY/FOLDERS/NAME.mp4             or another of ENDINGS, in lower or upper case; other files are skipped
    ROOT/ANY/metadata.csv                 optional labels and captions of the files below ROOT/ANY (folder_metadata.py)

The id of a clip is its path below the root with a short hash of that path, so that no two files share an id. With
source.labels_from_folders=true the label of a clip that has none from a table is the name of its folder. Files that a
table lists and that do not exist become rows too, rejected as missing. A clip is a full file, truncated to
decode.max_duration_s; with source.window_s, several windows of it (pipelines/build/windows.py). source.split only names
the shards. Links are followed (linked_files.py). Limits: files are recognized by their ending; how many others there
are is printed.
"""

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import MAX_ID_LENGTH, Clip
from pipelines.sources.folder_metadata import NAMES, Metadata, read_metadata, spellings
from pipelines.sources.linked_files import files_below

_NAMED_ENDINGS = 8
# fmt: off
ENDINGS = (
    ".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv",
    ".3g2", ".3gpp", ".amv", ".asf", ".divx", ".dv", ".dvr-ms", ".evo", ".f4v", ".gxf", ".insv", ".ismv", ".m2p",
    ".m2t", ".m2ts", ".mj2", ".mk3d", ".mod", ".mpe", ".mts", ".mxf", ".nut", ".ogm", ".qt", ".rm", ".rmvb", ".tod",
    ".tp", ".trp", ".vob", ".vro", ".wtv",
)
# fmt: on


def rows(source: SourceConfig) -> Iterator[Clip]:
    """The videos below the root, in the order of their names, folder by folder.

    Raises:
        UsageError: the folder does not exist, contains no video or cannot be listed; a table is malformed; or
            source.segments or source.media is set.
    """
    root = Path(source.root)
    if not source.root or not root.is_dir():
        raise UsageError(f"source.root={source.root!r} is not a folder; source.kind=folder reads the videos below it")
    for key in ("segments", "media"):
        if value := getattr(source, key):
            raise UsageError(
                f"source.{key}={value} is for layouts with a table; source.kind=folder reads all videos below the root"
            )
    found = unlisted = 0
    listed: dict[str, Metadata] = {}
    counts, skipped, tables = Counter[str](), Counter[str](), 0

    def clip(media: str, metadata: Metadata) -> Clip:
        folder = media.rpartition("/")[0].rpartition("/")[2]
        labels = metadata.labels or ((folder,) if folder and source.labels_from_folders else ())
        counts.update(labels)
        return Clip(
            id=safe_id(media), media=media, split=source.split, source="folder", labels=labels, text=metadata.text
        )

    for prefix, names in files_below(root, ENDINGS, skipped):
        for table in (root / prefix / name for name in NAMES if name in names):
            tables += 1
            listed |= {prefix + name: metadata for name, metadata in read_metadata(table).items()}
        videos = [prefix + name for name in names if name.lower().endswith(ENDINGS)]
        skipped.update(_ending(name) for name in names if not name.lower().endswith(ENDINGS) and name not in NAMES)
        for media in videos:
            found, unlisted = found + 1, unlisted + (media not in listed)
            yield clip(media, listed.pop(media, Metadata((), "")))
    others = ", ".join(f"{count} {what}" for what, count in skipped.most_common(_NAMED_ENDINGS))
    others += ", and others" if len(skipped) > _NAMED_ENDINGS else ""
    if not found:
        files = f"; it has {others}" if skipped else ""
        raise UsageError(f"source.root={source.root}: no video found below it ({' '.join(ENDINGS)}){files}")
    for media in sorted(listed):
        yield clip(media, listed[media])
    if skipped:
        print(f"skipped: {skipped.total()} files below source.root={source.root}: {others}", file=sys.stderr)
    if tables and unlisted:
        print(f"metadata: {unlisted} of {found} videos are in no {' or '.join(NAMES)}", file=sys.stderr)
    for message in spellings(counts):
        print(f"labels: {message}", file=sys.stderr)


def _ending(name: str) -> str:
    ending = Path(name).suffix.lower()
    return ending if ending[1:].isalnum() else "without an ending"


def safe_id(path: str) -> str:
    """A valid id for a relative path: the path with other characters replaced by _, and 8 hex digits of its SHA-256."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", path.rpartition(".")[0])
    return f"{stem[: MAX_ID_LENGTH - 9]}-{digest}"
