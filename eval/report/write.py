"""The report of one evaluation: report.html and report.md, with the same content (content.py)."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from configs.atomic_write import atomic_open, folder_lock
from configs.errors import UsageError
from eval.report.templates import FILES, read_file
from eval.results import METRICS_FILE, Results, write_metrics

REPORT_FILES = ("report.html", "report.md")
IMAGES = "pictures"
VIDEO_FILE = "heatmap.mp4"


@contextmanager
def report_folder(folder: Path) -> Iterator[None]:
    """Create the output folder, lock it, and check that the report can be written, before the evaluation starts.

    Raises:
        UsageError: another command holds the lock, or one of the files to write is a folder.
        CommandFailed: a template of the report is missing.
        OSError: the folder cannot be created or written.
    """
    for name in FILES:
        read_file(name)
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    for name in (METRICS_FILE, *REPORT_FILES):
        if (folder / name).is_dir():
            raise UsageError(f"out={folder}: {name} in it is a folder; remove it or give another out=")
    tempfile.TemporaryFile(dir=folder).close()
    with folder_lock(folder / IMAGES):
        yield


def write_results(
    results: Results, folder: Path, history: Sequence[Mapping[str, float | int]], video: Path | None
) -> None:
    """Write the report and then metrics.json, which vouches for it; arguments as `write_report`."""
    write_report(results, folder, history, video)
    write_metrics(results, folder)


def write_report(
    results: Results, folder: Path, history: Sequence[Mapping[str, float | int]], video: Path | None
) -> Path:
    """Write `folder/report.html` and `folder/report.md`, each atomically.

    Args:
        results: of the evaluation.
        folder: must exist; the images of report.md go to `folder/pictures`.
        history: one mapping for each logged training step, with `step`; may be empty.
        video: an mp4 to embed; None: no video.

    Returns:
        The path of report.html.
    """
    from eval.report.html import render_html
    from eval.report.markdown import render_markdown

    texts = (render_html(results, history, video), render_markdown(results, folder / IMAGES))
    for name, text in zip(REPORT_FILES, texts, strict=True):
        with atomic_open(folder / name) as file:
            file.write(text.encode())
    return folder / REPORT_FILES[0]
