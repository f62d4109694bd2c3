"""A plain folder of videos: every video file below the root is one clip.

    ROOT/ANY/FOLDERS/NAME.mp4                 or another of ENDINGS, small or capital; other files are passed over

A clip's id is its path below the root, with a short hash of that path, so that no two files share one. Subfolders are not classes: clips have no
labels, nor texts; a clip is a whole file, of which decode.max_duration_s is kept. source.split names the shards and chooses nothing.
Limits: links to folders are not followed; files are known by their ending.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import MAX_ID_LENGTH, Clip

ENDINGS = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")


def rows(source: SourceConfig) -> Iterator[Clip]:
    """The videos below the root, in the order of their names, folder by folder.

    Raises:
        UsageError: there is no such folder, no video in it, or one below it cannot be listed; a table or a template, which only other layouts have.
    """
    root = Path(source.root)
    if not source.root or not root.is_dir():
        raise UsageError(
            f"source.root={source.root!r} is not a folder; source.kind=folder wants one with videos in it ({' '.join(ENDINGS)})"
        )

    for key in ("segments", "media"):
        if value := getattr(source, key):
            raise UsageError(
                f"source.{key}={value} is for layouts with a table of clips; source.kind=folder takes every video below source.root, whole"
            )
    found = False

    def refuse(error: OSError) -> None:
        raise UsageError(f"source.root={source.root}: {error.filename} cannot be listed ({error.strerror})")

    for folder, subfolders, files in os.walk(root, onerror=refuse):
        subfolders.sort()
        below = Path(folder).relative_to(root).as_posix()
        for name in sorted(files):
            if name.lower().endswith(ENDINGS):
                found, media = True, name if below == "." else f"{below}/{name}"
                yield Clip(id=safe_id(media), media=media, split=source.split, source="folder")
    if not found:
        raise UsageError(f"source.root={source.root}: there is no video below it ({' '.join(ENDINGS)})")


def safe_id(path: str) -> str:
    """An id for a relative path: its letters where they are allowed, and 8 hex digits of the path's SHA-256."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", path.rpartition(".")[0])
    return f"{stem[: MAX_ID_LENGTH - 9]}-{digest}"
