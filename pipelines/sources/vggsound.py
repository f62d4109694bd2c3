"""VGGSound: its published table of 10 s segments, and the videos you have collected.

    ROOT/vggsound.csv                         all splits; or another table with source.segments
    ROOT/videos/YTID_SSSSSS.mp4               cut clips (SSSSSS: the start in seconds), or as source.media says

A table's line is `YTID,start_seconds,label,split`; splits are `train` and `test`. A clip's id is YTID_STARTMS, as in AudioSet.
`source.media_is_cut=true`, as in configs/build/vggsound.yaml, says that a file holds its segment only; otherwise it is a whole video.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from configs.command import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import Clip, Rejected
from pipelines.sources.segments import clip_id, media_path, table_path

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
    media_path(template, "ytid", 0.0, _SEGMENT_S)
    with table.open(newline="", encoding="utf-8", errors="replace") as file:
        for line in file:  # one by one, so that a missing quote cannot swallow the rows after it
            if not line.strip() or line.startswith("#"):
                continue
            row = _row(line.strip(), template, source)
            if isinstance(row, Rejected) or row.split == source.split:
                yield row


def _row(text: str, template: str, source: SourceConfig) -> Clip | Rejected:
    try:
        ((ytid, start, label, split),) = csv.reader([text], skipinitialspace=True, strict=True)
        start_s = float(start)
        if split not in SPLITS:
            raise ValueError(split)
        media = media_path(template, ytid, start_s, start_s + _SEGMENT_S)
        row_id = clip_id(ytid, start_s)
    except (ValueError, OverflowError, csv.Error):
        return Rejected(text.partition(",")[0][:100], "bad_row", f"wanted YTID, start, label, split; found {text[:200]}")
    if start_s < 0:
        return Rejected(row_id, "bad_times", f"from {start_s:g} s")
    begin_s = 0.0 if source.media_is_cut else start_s
    return Clip(id=row_id, media=media, start_s=begin_s, end_s=begin_s + _SEGMENT_S, split=split, source="vggsound", labels=(label,))
