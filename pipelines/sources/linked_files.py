"""The files below a folder, also those behind links: every real file and folder once, without endless loops.

A link into the folder itself, or to a folder around it, is passed over, because its files are reached without it. Of
several links to one file or folder outside, the first counts.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UsageError

REPEATED = "reached by another path"


def files_below(root: Path, endings: tuple[str, ...], skipped: Counter[str]) -> Iterator[tuple[str, list[str]]]:
    """The files of each folder, in the order of their names, before those of its subfolders.

    Args:
        root: the folder.
        endings: of the files that are read, in lower case.
        skipped: counts, under REPEATED, the links that are passed over.

    Yields:
        The path of a folder below the root, with a slash at its end, or ""; and the names of its files.

    Raises:
        UsageError: a folder cannot be listed.
    """
    real_root, visited = f"{os.path.realpath(root)}/", set[str]()

    def is_new(entry: os.DirEntry[str]) -> bool:
        """Whether something behind a link is not reached on another way too."""
        real = os.path.realpath(entry.path)
        is_read_there = os.path.isdir(real) or real.lower().endswith(endings)  # noqa: PTH112 - False on any error
        is_repeated = real in visited or (f"{real}/".startswith(real_root) and is_read_there)
        if is_repeated or real_root.startswith(f"{real.rstrip('/')}/"):
            skipped[REPEATED] += 1
            return False
        visited.add(real)
        return True

    folders = [("", False)]
    while folders:
        prefix, is_linked = folders.pop()
        try:
            with os.scandir(root / prefix) as iterator:
                entries = sorted(iterator, key=lambda entry: entry.name)
        except OSError as error:
            raise UsageError(f"source.root={root}: {error.filename} cannot be listed ({error.strerror})") from None
        entries = [entry for entry in entries if not (is_linked or entry.is_symlink()) or is_new(entry)]
        subfolders = [entry for entry in entries if _is_folder(entry)]
        yield prefix, [entry.name for entry in entries if not _is_folder(entry)]
        folders += [(f"{prefix}{entry.name}/", is_linked or entry.is_symlink()) for entry in reversed(subfolders)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # noqa: PTH112 - False on any error
