"""VGGSound: its published table of 10 s segments, and the videos that you have downloaded.

    ROOT/vggsound.csv                     all splits; another table with source.segments=FILE
    ROOT/videos/YTID_SSSSSS.mp4           trimmed clips (SSSSSS: start in seconds); or the template source.media,
                                          for example videos/{ytid}.{mp4,mkv,webm}: the first that exists

A line of the table is `YTID,start_seconds,label,split`, with quotes around a label that contains a comma; splits are
`train` and `test`. There is no header; lines that start with # are comments. Tables are UTF-8. The id of a clip is
YTID_STARTMS, as in AudioSet; it has one label. With `source.media_is_cut=true`, as in configs/build/vggsound.yaml, a
file holds its segment only; otherwise it is the full video, and the segment lies at its times.
"""

import csv
from collections.abc import Iterator

from configs.errors import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import Clip, Rejected
from pipelines.sources.youtube_segments import segment, table_lines, table_path, templates_of

SPLITS = ("train", "test")
MEDIA = "videos/{ytid}_{start_s:06d}.mp4"
_SEGMENT_S = 10.0


def rows(source: SourceConfig) -> Iterator[Clip | Rejected]:
    """The segments of one split, in the order of their table.

    Raises:
        UsageError: the folder, split or table does not exist, or the media template is invalid.
    """
    table = table_path(source, "vggsound.csv", "vggsound.csv and videos/")
    if source.split not in SPLITS:
        raise UsageError(f"source.split={source.split!r} is not one of {', '.join(SPLITS)}")
    templates = templates_of(source.media or MEDIA)
    segment(templates, "ytid", 0.0, _SEGMENT_S)  # fails on an invalid template before the first row
    yield from filter(None, (_row(line, templates, source) for line in table_lines(table)))


def _row(text: str, templates: list[str], source: SourceConfig) -> Clip | Rejected | None:
    """The clip of a line; None if it belongs to another split."""
    try:
        if "\ufffd" in text:
            raise ValueError("not UTF-8")
        ((ytid, start, label, split),) = csv.reader([text], skipinitialspace=True, strict=True)
        if split.strip() not in SPLITS:
            raise ValueError(split)
        if split.strip() != source.split:
            return None
        start_s = float(start)
        row_id, media = segment(templates, ytid, start_s, start_s + _SEGMENT_S)
    except UsageError as error:
        return Rejected(ytid[:100], "bad_row", str(error))
    except (ValueError, OverflowError, csv.Error):
        return Rejected(
            text.partition(",")[0][:100], "bad_row", f"wanted YTID, start, label, split; found {text[:200]}"
        )
    if start_s < 0:
        return Rejected(row_id, "bad_times", f"from {start_s:g} s")
    begin_s = 0.0 if source.media_is_cut else start_s
    return Clip(
        id=row_id,
        media=media[0],
        start_s=begin_s,
        end_s=begin_s + _SEGMENT_S,
        split=source.split,
        source="vggsound",
        labels=(label.strip(),) if label.strip() else (),
        alternatives=tuple(media[1:]),
    )
