"""What tables of YouTube segments share: a clip's id, and the path of its media from a template."""

from __future__ import annotations

from pathlib import Path

from configs.command import UsageError
from configs.schema import SourceConfig


def clip_id(ytid: str, start_s: float) -> str:
    """`YTID_STARTMS`, the same in every data set, so that lists of ids to leave out go for all."""
    return f"{ytid}_{round(start_s * 1000)}"


def media_path(template: str, ytid: str, start_s: float, end_s: float) -> str:
    """The media path of a segment.

    Args:
        template: with {ytid}, {id}, {start_s}, {end_s} (30, or 12.5), {start_ms}, {end_ms}; whole numbers take a width: {start_s:06d}.
        ytid, start_s, end_s: the segment.

    Raises:
        UsageError: the template holds something else.
    """
    fields = {
        "ytid": ytid,
        "id": clip_id(ytid, start_s),
        "start_s": int(start_s) if start_s == int(start_s) else start_s,
        "end_s": int(end_s) if end_s == int(end_s) else end_s,
        "start_ms": round(start_s * 1000),
        "end_ms": round(end_s * 1000),
    }
    try:
        return template.format(**fields)
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise UsageError(f"source.media={template!r} cannot be filled in ({error}); it may hold {{{'} {'.join(fields)}}}") from None


def table_path(source: SourceConfig, published: str, wanted: str) -> Path:
    """The table of a source below its root.

    Args:
        source: its settings.
        published: the table's own name, taken where `source.segments` names none.
        wanted: what belongs into the root, for people.

    Raises:
        UsageError: no such folder or table.
    """
    root = Path(source.root)
    if not source.root or not root.is_dir():
        raise UsageError(f"source.root={source.root!r} is not a folder; source.kind={source.kind} wants one with {wanted} in it")
    table = root / (source.segments or published)
    if not table.is_file():
        raise UsageError(f"{table}: no such table; put the published {Path(published).name} there, or name another with source.segments")
    return table
