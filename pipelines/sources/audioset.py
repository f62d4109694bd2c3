"""AudioSet: its published tables of 10 s segments, and the videos you have collected.

    ROOT/unbalanced_train_segments.csv        split train
    ROOT/balanced_train_segments.csv          split balanced_train
    ROOT/eval_segments.csv                    split eval
    ROOT/class_labels_indices.csv             optional: labels become names ("Speech") instead of ids ("/m/09x0r")
    ROOT/videos/YTID_STARTMS.mp4              or as source.media says, for example videos/{ytid}.mkv

A table's line is `YTID, start_seconds, end_seconds, "/m/id,/m/id"`; lines that start with # are comments. A clip's id is YTID_STARTMS.
`source.media_is_cut=true` says that a file holds its segment only; otherwise it is a whole video and the segment lies at its times.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from configs.command import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import Clip, Rejected
from pipelines.sources.segments import clip_id, media_path, table_path

TABLES = {"train": "unbalanced_train_segments.csv", "balanced_train": "balanced_train_segments.csv", "eval": "eval_segments.csv"}
MEDIA = "videos/{ytid}_{start_ms}.mp4"


def rows(source: SourceConfig) -> Iterator[Clip | Rejected]:
    """The segments of one split, in the order of their table.

    Raises:
        UsageError: no such folder, split or table, or a media template that cannot be filled in.
    """
    if not source.segments and source.split not in TABLES:
        raise UsageError(f"source.split={source.split!r} is none of {', '.join(TABLES)}; for a table of your own give source.segments=FILE too")
    table = table_path(source, TABLES.get(source.split, ""), f"{', '.join(TABLES.values())} and videos/")
    template = source.media or MEDIA
    media_path(template, "ytid", 0.0, 10.0)
    names = _label_names(Path(source.root) / "class_labels_indices.csv")
    with table.open(newline="", encoding="utf-8", errors="replace") as file:
        for line in file:  # one by one, so that a missing quote cannot swallow the rows after it
            if line.strip() and not line.startswith("#"):
                yield _row(line.strip(), template, names, source)


def _row(text: str, template: str, names: dict[str, str], source: SourceConfig) -> Clip | Rejected:
    ytid = text.partition(",")[0].strip()
    try:
        (line,) = csv.reader([text], skipinitialspace=True, strict=True)
        start_s, end_s = float(line[1]), float(line[2])
        media, row_id = media_path(template, ytid, start_s, end_s), clip_id(ytid, start_s)
    except (IndexError, ValueError, OverflowError, csv.Error):
        return Rejected(ytid[:100], "bad_row", f"wanted YTID, start, end, labels; found {text[:200]}")
    if not 0 <= start_s < end_s:
        return Rejected(row_id, "bad_times", f"from {start_s:g} s to {end_s:g} s")
    labels = tuple(names.get(mid.strip(), mid.strip()) for mid in line[3].split(",") if mid.strip()) if len(line) > 3 else ()
    if source.media_is_cut:
        start_s, end_s = 0.0, end_s - start_s
    return Clip(id=row_id, media=media, start_s=start_s, end_s=end_s, split=source.split, source="audioset", labels=labels)


def _label_names(table: Path) -> dict[str, str]:
    """Label id -> name, from a table `index,mid,display_name`; empty when there is none."""
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file)
        if not {"mid", "display_name"} <= set(lines.fieldnames or ()):
            raise UsageError(f"{table}: wanted the columns index, mid, display_name; there are {', '.join(lines.fieldnames or ()) or 'none'}")
        return {line["mid"]: line["display_name"] for line in lines}
