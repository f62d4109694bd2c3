"""VGGSound: its published table of 10 s segments, and the videos you have collected.

    ROOT/vggsound.csv                         all splits; or another table with source.segments=FILE
    ROOT/videos/YTID_SSSSSS.mp4               cut clips (SSSSSS: the start in seconds), or as source.media says, for example videos/{ytid}.mp4

A table's line is `YTID,start_seconds,label,split`, with quotes around a label that has a comma in it; splits are `train` and `test`. There is no
heading; lines that start with # are comments. Tables are UTF-8. A clip's id is YTID_STARTMS, as in AudioSet, and it has the one label.
`source.media_is_cut=true`, as in configs/build/vggsound.yaml, says that a file holds its segment only; otherwise it is a whole video and the segment
lies at its times.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from configs.errors import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import Clip, Rejected
from pipelines.sources.youtube_segments import segment, table_lines, table_path

SPLITS = ("train", "test")
MEDIA = "videos/{ytid}_{start_s:06d}.mp4"
_SEGMENT_S = 10.0


def rows(source: SourceConfig) -> Iterator[Clip | Rejected]:
    """The segments of one split, in the order of their table.

    Raises:
        UsageError: no such folder, split or table, or a media template that cannot be filled in.
    """
    table = table_path(source, "vggsound.csv", "vggsound.csv and videos/")
    if source.split not in SPLITS:
        raise UsageError(f"source.split={source.split!r} is none of {', '.join(SPLITS)}")
    template = source.media or MEDIA
    segment(template, "ytid", 0.0, _SEGMENT_S)  # a wrong template is told before the first row
    for line in table_lines(table):
        row = _row(line, template, source)
        if row is not None:
            yield row


def _row(text: str, template: str, source: SourceConfig) -> Clip | Rejected | None:
    """None: the row is of another split."""
    try:
        if "\ufffd" in text:
            raise ValueError("not UTF-8")
        ((ytid, start, label, split),) = csv.reader([text], skipinitialspace=True, strict=True)
        if split.strip() not in SPLITS:
            raise ValueError(split)
        if split.strip() != source.split:
            return None
        start_s = float(start)
        row_id, media = segment(template, ytid, start_s, start_s + _SEGMENT_S)
    except UsageError as error:
        return Rejected(ytid[:100], "bad_row", str(error))
    except (ValueError, OverflowError, csv.Error):
        return Rejected(
            text.partition(",")[0][:100], "bad_row", f"wanted YTID, start, label, split; found {text[:200]}"
        )
    if start_s < 0:
        return Rejected(row_id, "bad_times", f"from {start_s:g} s")
    begin_s = 0.0 if source.media_is_cut else start_s
    labels = (label.strip(),) if label.strip() else ()
    return Clip(
        id=row_id,
        media=media,
        start_s=begin_s,
        end_s=begin_s + _SEGMENT_S,
        split=source.split,
        source="vggsound",
        labels=labels,
    )
