"""A plain folder of videos: every video file below the root is one clip.

    ROOT/ANY/FOLDERS/NAME.mp4             or another of ENDINGS, in lower or upper case; other files are skipped

The id of a clip is its path below the root with a short hash of that path, so that no two files share an id. Subfolders
are not classes: clips have neither labels nor text. A clip is a full file, truncated to decode.max_duration_s.
source.split only names the shards. Links are followed (linked_files.py). Limits: files are recognized by their ending;
how many others there are is printed.
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
        UsageError: the folder does not exist, contains no video or cannot be listed; or source.segments or source.media
            is set.
    """
    root = Path(source.root)
    if not source.root or not root.is_dir():
        raise UsageError(
            f"source.root={source.root!r} is not a folder; source.kind=folder reads videos ({' '.join(ENDINGS)})"
        )
    for key in ("segments", "media"):
        if value := getattr(source, key):
            raise UsageError(
                f"source.{key}={value} is for layouts with a table; source.kind=folder reads all videos below the root"
            )
    found, skipped = False, Counter[str]()
    for prefix, names in files_below(root, ENDINGS, skipped):
        for name in names:
            if name.lower().endswith(ENDINGS):
                found, media = True, prefix + name
                yield Clip(id=safe_id(media), media=media, split=source.split, source="folder")
            else:
                ending = Path(name).suffix.lower()
                skipped[ending if ending[1:].isalnum() else "without an ending"] += 1
    counts = ", ".join(f"{count} {what}" for what, count in skipped.most_common(_NAMED_ENDINGS))
    counts += ", and others" if len(skipped) > _NAMED_ENDINGS else ""
    if not found:
        files = f"; it has {counts}" if skipped else ""
        raise UsageError(f"source.root={source.root}: no video found below it ({' '.join(ENDINGS)}){files}")
    if skipped:
        print(f"skipped: {skipped.total()} files below source.root={source.root}: {counts}", file=sys.stderr)


def safe_id(path: str) -> str:
    """A valid id for a relative path: the path with other characters replaced by _, and 8 hex digits of its SHA-256."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", path.rpartition(".")[0])
    return f"{stem[: MAX_ID_LENGTH - 9]}-{digest}"
