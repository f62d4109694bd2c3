"""The report of one evaluation: report.html and report.md, written from the same content (content.py)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import UsageError

if TYPE_CHECKING:
    from eval.results import Results

FILES = ("report.html", "report.md")


@contextmanager
def report_folder(folder: Path) -> Iterator[None]:
    """Make a folder for a report and hold it, before hours go into what is to be written there.

    Raises:
        UsageError: another command holds it, or a folder is where one of the files belongs.
        OSError: it cannot be made or written.
    """
    from configs.atomic_write import folder_lock
    from eval.metrics_file import NAME
    from eval.report.markdown import PICTURES

    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for name in (NAME, *FILES):
        if (folder / name).is_dir():
            raise UsageError(f"out={folder}: {name} is a folder there; remove it, or give another out=")
    tempfile.TemporaryFile(dir=folder).close()
    with folder_lock(folder / PICTURES):
        yield


def write_report(
    results: Results, folder: Path, history: Sequence[Mapping[str, float | int]], video: Path | None
) -> Path:
    """Write `folder/report.html` and `folder/report.md`, each of which appears whole or not at all.

    Args:
        results: what was measured.
        folder: exists; the pictures of report.md go into pictures/ in it.
        history: one mapping for each logged step of the training, with `step`; may be empty.
        video: an mp4 to embed; None: none.

    Returns:
        The path of report.html.
    """
    from configs.atomic_write import atomic_open
    from eval.report.html import as_html
    from eval.report.markdown import as_markdown

    html, markdown = FILES
    for name, text in {markdown: as_markdown(results, folder), html: as_html(results, history, video)}.items():
        with atomic_open(folder / name) as file:
            file.write(text.encode())
    return folder / html
