"""The report as Markdown, for repositories and terminals; images are files next to it."""

import re
from collections.abc import Sequence
from pathlib import Path

from configs.atomic_write import atomic_open
from eval.report.content import report_content, with_rank_labels
from eval.report.figures import heatmap_sheet, jpeg_bytes
from eval.report.templates import load_template
from eval.results import Example, Results


def render_markdown(results: Results, images: Path) -> str:
    """The text.

    Args:
        results: of the evaluation.
        images: folder next to the report, which gets TASK.jpg: the best, the median and the worst example of each
            benchmark that has examples.
    """
    content = report_content(results)
    template = load_template("report.md.j2", autoescape=False, filters={"escaped": _escape, "code": _code})
    return template.render(
        content,
        folder=images.name,
        examples={
            section.task: _write_image(section.examples, images / f"{section.task}.jpg")
            for section in content["sections"]
        },
    )


def _write_image(examples: Sequence[Example], path: Path) -> list[tuple[str, Example]]:
    """Write the labelled examples as one image; returns them."""
    labelled = [(label, example) for label, example in with_rank_labels(examples) if label]
    if labelled:
        path.parent.mkdir(exist_ok=True)
        with atomic_open(path) as file:
            file.write(jpeg_bytes(heatmap_sheet([example for _, example in labelled])))
    return labelled


def _escape(text: str) -> str:
    """Text as one line without Markdown or HTML markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return "`{}`".format(text.replace("`", "'"))
