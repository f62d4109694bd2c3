"""Tables of YouTube segments: their lines, the id of a clip, and the path of its media from a template."""

import codecs
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from configs.errors import UsageError
from configs.schema import SourceConfig

_CHOICE = re.compile(r"\{([^{}:]*,[^{}:]*)\}")


def templates_of(template: str) -> list[str]:
    """The templates that one with alternatives stands for: `{ytid}.{mp4,mkv}` is `{ytid}.mp4`, then `{ytid}.mkv`."""
    if not (match := _CHOICE.search(template)):
        return [template]
    before, after = template[: match.start()], template[match.end() :]
    return [some for choice in match[1].split(",") for some in templates_of(before + choice.strip() + after)]


def segment(templates: Sequence[str], ytid: str, start_s: float, end_s: float) -> tuple[str, list[str]]:
    """The id of the clip of a segment, and the paths at which its media may be.

    Args:
        templates: paths with {ytid}, {id}, {start_s}, {end_s} (30, or 12.5), {start_ms}, {end_ms}; integers take a
            width: {start_s:06d}.
        ytid, start_s, end_s: the segment.

    Returns:
        The id `YTID_STARTMS`, which is the same in every data set, so that lists of excluded ids apply to all; and the
        formatted templates.

    Raises:
        UsageError: a template cannot be formatted with these fields.
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
        return row_id, [template.format_map(fields) for template in templates]
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"source.media={templates[0]!r} cannot be filled in ({error}); it may hold {{{'} {'.join(fields)}}} "
            "and alternatives such as {mp4,mkv,webm}"
        ) from None


def table_path(source: SourceConfig, published: str, expected: str) -> Path:
    """Find the table of a source below its root.

    Args:
        source: settings of the source.
        published: name of the published table, used if `source.segments` is empty.
        expected: the files that belong into the root, for the error message.

    Raises:
        UsageError: the folder or table does not exist, the table is not a file, or is encoded in UTF-16.
    """
    root = Path(source.root)
    if not source.root or not root.is_dir():
        raise UsageError(
            f"source.root={source.root!r} is not a folder; source.kind={source.kind} expects {expected} in it"
        )
    table = root / (source.segments or published)
    if not table.is_file():
        what = "not a file" if table.exists() else "no such table"
        raise UsageError(
            f"{table}: {what}; put the published {Path(published).name} there, or set source.segments to another"
        )
    with table.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise UsageError(
                f"{table}: the table is encoded in UTF-16; convert it to UTF-8 with `iconv -f UTF-16 -t UTF-8`"
            )
    return table


def table_lines(table: Path) -> Iterator[str]:
    """The stripped lines of a table, without comments (# ...) and empty lines; bytes that are not UTF-8 become U+FFFD.

    Tables are parsed line by line, so that a missing quote affects one row only.
    """
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            text = line.strip()
            if text and text[0] != "#":
                yield text
