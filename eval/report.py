"""Reports of evaluations. Compare two: `python -m eval.report compare A B` (A, B: folders eval.run wrote to, or their metrics.json)

The report of one evaluation is written by eval.run: report.html and report.md, from the same content (eval/report_content.py).
Figures of two runs whose 95 % intervals do not overlap differ by more than the choice of items.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from configs.command import UsageError, run
from configs.schema import ReportConfig

if TYPE_CHECKING:
    from eval.results import Results


FILES = ("report.html", "report.md")


def main(config: ReportConfig, action: str, a: str, b: str) -> None:  # noqa: ARG001
    """Print the comparison."""
    from eval.compare import compared

    if action != "compare":
        raise UsageError(f"{action!r}: allowed is compare A B, on the command line")
    print(compared(Path(a), Path(b)))


@contextmanager
def report_folder(folder: Path) -> Iterator[None]:
    """Make a folder for a report and hold it, before hours go into what is to be written there.

    Raises:
        UsageError: another command holds it, or a folder is where one of the files belongs.
        OSError: it cannot be made or written.
    """
    from eval.metrics_file import NAME
    from eval.report_markdown import PICTURES
    from pipelines.whole_file import only_writer

    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for name in (NAME, *FILES):
        if (folder / name).is_dir():
            raise UsageError(f"out={folder}: {name} is a folder there; remove it, or give another out=")
    tempfile.TemporaryFile(dir=folder).close()
    with only_writer(folder / PICTURES):
        yield


def write_report(results: Results, folder: Path, history: Sequence[Mapping[str, float | int]], video: Path | None) -> Path:
    """Write `folder/report.html` and `folder/report.md`, each of which appears whole or not at all.

    Args:
        results: what was measured.
        folder: exists; the pictures of report.md go into pictures/ in it.
        history: one mapping for each logged step of the training, with `step`; may be empty.
        video: an mp4 to embed; None: none.

    Returns:
        The path of report.html.
    """
    from eval.report_html import as_html
    from eval.report_markdown import as_markdown
    from pipelines.whole_file import whole_file

    html, markdown = FILES
    for name, text in {markdown: as_markdown(results, folder), html: as_html(results, history, video)}.items():
        with whole_file(folder / name) as file:
            file.write(text.encode())
    return folder / html


if __name__ == "__main__":
    sys.exit(run(ReportConfig, __doc__, main, positional=("compare", "A", "B")))
