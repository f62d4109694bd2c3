"""The report as Markdown, for repositories and terminals: the same sections, pictures as files beside it. Text from data stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from configs.atomic_write import atomic_open
from eval.baselines import PREFIXES
from eval.report.content import Section, difference, headline, item_summary, sections, with_rank_labels
from eval.report.figures import heatmap_sheet
from eval.report.published_results import MARKS
from eval.results import Requirement, Results

PICTURES = "pictures"


def as_markdown(results: Results, folder: Path) -> str:
    """The text; writes FOLDER/pictures/TASK.jpg, the best, the median and the worst picture of each benchmark that has pictures."""
    found = sections(results)
    parts = [
        f"# DenseAV, evaluated {str(results.about.get('date', ''))[:10]}".rstrip(" ,"),
        _plain(headline(results.metrics)),
        _requirements(results.requirements),
    ]
    if found:
        parts.append(
            "Numbers lie between 0 and 1, more is better; in brackets their 95 % interval. Columns beside the model: its baselines, from the same run."
        )
    for section in found:
        about = section.about
        parts += [
            f"## {about.question}" + (f" ({about.name})" if about.name != about.question else ""),
            item_summary(section),
            _table(section),
            _published(section),
        ]
        parts += [
            _pictures(section, folder),
            _classes(section),
            f"*Terms of the published data. {about.terms}*" if about.terms else "",
        ]
    lines = "\n".join(f"{key}: {value}" for key, value in results.about.items() if key != "config")
    made = _indented(f"{lines}\n\n{results.about.get('config', '')}")
    return "\n\n".join(part for part in [*parts, "## How this was made", made] if part) + "\n"


def _requirements(requirements: Sequence[Requirement]) -> str:
    if not requirements:
        return ""
    lines = [
        f"- **{'PASS' if r.passed else 'FAIL'}** {_code(r.metric)} = {r.value:.3f}, wanted {_code(r.wanted)}"
        for r in requirements
    ]
    return "\n".join([f"{sum(r.passed for r in requirements)} of {len(requirements)} requirements met:\n", *lines])


def _table(section: Section) -> str:
    has_intervals = any(row.interval for row in section.rows)
    head = ["", "model", *(["95 %"] if has_intervals else []), *(PREFIXES[prefix] for prefix in section.prefixes)]
    rows = [
        [
            row.name,
            f"**{row.value:.3f}**",
            *([f"{row.interval[0]:.3f} to {row.interval[1]:.3f}" if row.interval else ""] if has_intervals else []),
            *(f"{row.beside[prefix]:.3f}" if prefix in row.beside else "" for prefix in section.prefixes),
        ]
        for row in section.rows
    ]
    return _rows(head, rows) if rows else ""


def _published(section: Section) -> str:
    rows = [
        [row.name, f"{row.value:.3f}", figure.system, f"{figure.value:.3f}", figure.mark, difference(section, figure)]
        for row in section.rows
        for figure in row.published
    ]
    if not rows:
        return ""
    marks = "; ".join(f"{mark}: {meaning}" for mark, meaning in MARKS.items())
    table = _rows(["", "ours", "system", "published", "mark", "differs"], rows, numbers=(1, 3))
    return f"What others report, on the published data ({marks}):\n\n{table}"


def _pictures(section: Section, folder: Path) -> str:
    from PIL import Image

    chosen = [(place, example) for place, example in with_rank_labels(section.examples) if place]
    if not chosen:
        return ""
    (folder / PICTURES).mkdir(exist_ok=True)
    name = f"{PICTURES}/{section.task}.jpg"
    with atomic_open(folder / name) as file:
        Image.fromarray(heatmap_sheet([example for _, example in chosen])).save(file, "JPEG", quality=88)
    said = "; ".join(f"{place}: {_plain(example.prompt)}, {example.value}" for place, example in chosen)
    return f"![{said}]({name})\n\nFrom above: {said}."


def _classes(section: Section) -> str:
    if not section.classes:
        return ""
    rows = [
        [_plain(name), f"{values['ap']:.3f}", f"{values['iou']:.3f}", f"{values['items']:.0f}"]
        for name, values in section.classes.items()
    ]
    return f"<details><summary>{len(rows)} classes</summary>\n\n{_rows(['class', 'AP', 'IoU', 'items'], rows)}\n\n</details>"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] | None = None) -> str:
    """A table; `numbers`: columns to be set right (None: all but the first)."""
    rule = ["---:" if (place > 0 if numbers is None else place in numbers) else "---" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _plain(text: str) -> str:
    """Text in one line, of which nothing is read as Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return "`{}`".format(text.replace("`", "'"))


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
