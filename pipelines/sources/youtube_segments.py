"""What tables of YouTube segments share: a table's lines, a clip's id, and the path of its media from a template."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UsageError
from configs.schema import SourceConfig


def segment(template: str, ytid: str, start_s: float, end_s: float) -> tuple[str, str]:
    """The id of a segment's clip, and the path of its media.

    Args:
        template: with {ytid}, {id}, {start_s}, {end_s} (30, or 12.5), {start_ms}, {end_ms}; whole numbers take a width: {start_s:06d}.
        ytid, start_s, end_s: the segment.

    Returns:
        `YTID_STARTMS`, the same in every data set, so that lists of ids to leave out go for all; and the template, filled in.

    Raises:
        UsageError: the template holds something else.
        ValueError, OverflowError: a time is not finite.
    """
    start_ms, end_ms = round(start_s * 1000), round(end_s * 1000)
    row_id = f"{ytid}_{start_ms}"
    fields = {
        "ytid": ytid,
        "id": row_id,
        "start_s": int(start_s) if start_s.is_integer() else start_s,
        "end_s": int(end_s) if end_s.is_integer() else end_s,
        "start_ms": start_ms,
        "end_ms": end_ms,
    }
    try:
        return row_id, template.format_map(fields)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"source.media={template!r} cannot be filled in ({error}); it may hold {{{'} {'.join(fields)}}}"
        ) from None


def table_path(source: SourceConfig, published: str, wanted: str) -> Path:
    """The table of a source below its root.

    Args:
        source: its settings.
        published: the table's own name, taken where `source.segments` names none.
        wanted: what belongs into the root, for people.

    Raises:
        UsageError: no such folder or table, or something that is no file, or one in UTF-16.
    """
    root = Path(source.root)
    if not source.root or not root.is_dir():
        raise UsageError(
            f"source.root={source.root!r} is not a folder; source.kind={source.kind} wants one with {wanted} in it"
        )
    table = root / (source.segments or published)
    if not table.is_file():
        what = "not a file" if table.exists() else "no such table"
        raise UsageError(
            f"{table}: {what}; put the published {Path(published).name} there, or name another with source.segments"
        )
    with table.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise UsageError(f"{table}: the table is in UTF-16; wanted UTF-8, as `iconv -f UTF-16 -t UTF-8` makes it")
    return table


def table_lines(table: Path) -> Iterator[str]:
    """The lines of a table without the white space around them, one by one, so that a missing quote cannot swallow the rows after it.

    Comments (# ...) and empty lines are left out; what is not UTF-8 comes as U+FFFD.
    """
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            text = line.strip()
            if text and text[0] != "#":
                yield text
