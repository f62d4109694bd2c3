"""AudioSet: its published tables of 10 s segments, and the videos that you have downloaded.

    ROOT/unbalanced_train_segments.csv    split train
    ROOT/balanced_train_segments.csv      split balanced_train
    ROOT/eval_segments.csv                split eval; any other table and split with source.segments=FILE
    ROOT/class_labels_indices.csv         optional: labels become names ("Speech") instead of ids ("/m/09x0r")
    ROOT/videos/YTID_STARTMS.mp4          or the template of source.media, for example videos/{ytid}.mkv
                                          or videos/{ytid}.{mp4,mkv,webm}: the first that exists

A line of a table is `YTID, start_seconds, end_seconds, "/m/id,/m/id"`; lines that start with # are comments; the labels
may be missing. The id of a clip is YTID_STARTMS. The table of labels has the columns `index,mid,display_name`. Tables
are UTF-8. With `source.media_is_cut=true`, as in configs/build/audioset.yaml, a file holds its segment only; otherwise
it is the full video, and the segment lies at its times.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import Clip, Rejected
from pipelines.sources.youtube_segments import segment, table_lines, table_path, templates_of

TABLES = {
    "train": "unbalanced_train_segments.csv",
    "balanced_train": "balanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
MEDIA = "videos/{ytid}_{start_ms}.mp4"
# A third of the time of a csv.reader for each line.
_LINE = re.compile(r'([^",]+),([^",]+),([^",]+)(?:,\s*("?)([^"\ufffd]*)\4)?')


def rows(source: SourceConfig) -> Iterator[Clip | Rejected]:
    """The segments of one split, in the order of their table.

    Raises:
        UsageError: the folder, split or table does not exist, or the media template is invalid.
    """
    if not source.segments and source.split not in TABLES:
        raise UsageError(
            f"source.split={source.split!r} is not one of {', '.join(TABLES)}; or set source.segments=FILE"
        )
    table = table_path(source, TABLES.get(source.split, ""), f"{', '.join(TABLES.values())} and videos/")
    templates = templates_of(source.media or MEDIA)
    segment(templates, "ytid", 0.0, 10.0)  # fails on an invalid template before the first row
    names = _label_names(Path(source.root) / "class_labels_indices.csv")
    for line in table_lines(table):
        yield _row(line, templates, names, source)


def _row(line: str, templates: list[str], names: dict[str, str], source: SourceConfig) -> Clip | Rejected:
    try:
        if not (match := _LINE.fullmatch(line)):
            raise ValueError(line)
        ytid, start, end, _, mids = match.groups("")
        start_s, end_s = float(start), float(end)
        row_id, media = segment(templates, ytid.strip(), start_s, end_s)
    except UsageError as error:
        return Rejected(ytid[:100], "bad_row", str(error))
    except (ValueError, OverflowError):
        return Rejected(line.partition(",")[0][:100], "bad_row", f"wanted YTID, start, end, labels; found {line[:200]}")
    if not 0 <= start_s < end_s:
        return Rejected(row_id, "bad_times", f"from {start_s:g} s to {end_s:g} s")
    labels = tuple([names.get(mid, mid) for mid in map(str.strip, mids.split(",")) if mid])
    if source.media_is_cut:
        start_s, end_s = 0.0, end_s - start_s
    return Clip(
        id=row_id,
        media=media[0],
        start_s=start_s,
        end_s=end_s,
        split=source.split,
        source="audioset",
        labels=labels,
        alternatives=tuple(media[1:]),
    )


def _label_names(table: Path) -> dict[str, str]:
    """Names by label id, from a table `index,mid,display_name`; empty if it does not exist."""
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        try:
            lines = csv.DictReader(file)
            if not {"mid", "display_name"} <= set(lines.fieldnames or ()):
                columns = ", ".join(lines.fieldnames or ())[:200] or "none"
                raise UsageError(f"{table} must have the columns index, mid, display_name; it has {columns}")
            return {line["mid"]: line["display_name"] for line in lines if line["display_name"]}
        except csv.Error as error:
            raise UsageError(f"{table} is not a table of labels: {error}") from None
