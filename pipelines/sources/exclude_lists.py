"""Lists of clips to exclude (`exclude=`), in the forms in which data sets publish them.

A list is a text file with one name a line, a table (CSV, TSV; with or without a header), JSON or JSON Lines. Its names
are in a column such as `ytid`, `file` or `video`, otherwise in the first; in JSON they are strings, or the fields of
these names. Lines that start with # are comments. A name, with or without folders before it and an ending such as .mp4:

    YTID                                  all clips of that video; so does a table of ids with their times in columns
    YTID_STARTMS, YTID_32000_42000        the clip that starts there, in milliseconds
    YTID_000032, YTID_32, YTID_32_42      the same clip, in seconds; YTID_30.0_40.0 too
    ID                                    a clip by its own id, for example a caption of Places Audio
    FOLDERS/NAME.mp4                      a file of source.kind=folder, by its path below source.root or an absolute one

A pair of times is in seconds if they lie less than 1000 apart. A single number below 1000, or not a multiple of 1000,
excludes the clips that start at so many seconds and at so many milliseconds. Limits: in ids that do not have the 11
characters of YouTube, times are recognized where they are unambiguous only: 000032, or a pair 10 s apart; the stream
knows the ids of clips, not their files, so there a file in a folder needs its path.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from pipelines.sources.folder import safe_id

FORMS = (
    "YTID, YTID_STARTMS, YTID_000032 or YTID_32 (seconds), YTID_32000_42000 or YTID_32_42 (start and end), ids of "
    "clips, and paths below source.root, with or without folders and an ending such as .mp4"
)
# Names of columns and fields, without _ and spaces, the most specific first.
_COLUMNS = (
    *("uttid", "segmentid", "clipid", "file", "filename", "filepath", "fname", "path", "ytid", "youtubeid", "videoid"),
    *("vid", "yid", "video", "videoname", "videopath", "videofile", "audio", "audioname", "audiopath", "audiofile"),
    *("wav", "image", "imagename", "imagepath", "imagefile", "url", "key", "name", "id"),
)
_SEPARATORS = "\t,;&|"
_TIME = r"\d+(?:\.\d+)?"
_YOUTUBE = rf"([\w-]{{11}})(?:_({_TIME})(?:[_-]({_TIME}))?)?"
# Y and v_ are put before ids that start with -; what follows a space or & is another column.
_LISTED = re.compile(rf"(?:.*[/=])?(?:Y|v_)??{_YOUTUBE}(?:\.\w+)*(?:[\s;&|?].*)?", re.ASCII)
_WITHIN_ID = re.compile(rf"(?:.*?[/_])??{_YOUTUBE}", re.ASCII)  # in the id of a file in a folder, or of another writer
_OTHER = re.compile(r"(.+?)_(?:(0\d{5})|(\d+)_(\d+))", re.ASCII)
_FOLDER_ID = re.compile(r"(.*-)[0-9a-f]{8}")  # as safe_id makes them
_ENDING = re.compile(r"\.(?=\w*[A-Za-z])\w{1,5}$", re.ASCII)


class ExcludeLists:
    """The clips that lists exclude.

    Args:
        files: the lists.

    Raises:
        UsageError: a list does not exist, cannot be read or contains no name.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self._lists: list[tuple[str, int, str]] = []  # file, number of names, the first of them
        self._keys: dict[str, int] = {}  # the lists that hold a key, as bits
        self._matched = 0
        for file in dict.fromkeys(files):
            names, bit = read_names(file), 1 << len(self._lists)
            self._lists.append((file, len(names), names[0]))
            for key in (key for name in names for key in _keys(name)):
                self._keys[key] = self._keys.get(key, 0) | bit

    def excludes(self, clip_id: str, media: str = "") -> bool:
        """Whether a list holds a clip or its video.

        Args:
            clip_id: id of the clip.
            media: its file, for source.kind=folder, where known.
        """
        keys = self._keys
        video, _, start = clip_id.rpartition("_")
        has_time = start.isdecimal()
        is_own = len(video) == 11 and has_time and (start[0] != "0" or start == "0")  # YTID_STARTMS
        if is_own and video not in keys and clip_id not in keys:
            return False
        found = keys.get(clip_id, 0) | (keys.get(video, 0) if has_time else 0)
        for key in () if is_own else _other_keys(clip_id, video if has_time else clip_id, media):
            found |= keys.get(key, 0)
        self._matched |= found
        return found != 0

    def check_matched(self, clip_id: str) -> None:
        """Check that each list has excluded a clip.

        Args:
            clip_id: id of a clip of the data set, for the message.

        Raises:
            UsageError: a list has excluded none: it is that of another data set, or has an unknown form.
        """
        for number, (file, count, first) in enumerate(self._lists):
            if not self._matched >> number & 1:
                raise UsageError(
                    f"exclude={file!r}: none of its {count} entries is in this data set (the first is {first[:100]!r}, "
                    f"a clip here is {clip_id!r}); known forms are {FORMS}; remove the list if it is another data set's"
                )


def read_names(file: str) -> list[str]:
    """The names in a list, in order.

    Raises:
        UsageError: the list does not exist, cannot be read or contains no name.
    """
    if not Path(file).is_file():
        raise UsageError(f"exclude={file!r} cannot be read: no such file")
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
        found = _json_names(_parse_json(text)) if text.lstrip()[:1] in ("[", "{") else _table_names(text.splitlines())
        names = [name for name in (name.strip(" \t\r\n\"'") for name in found) if name]
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"exclude={file!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not names:
        raise UsageError(f"exclude={file!r} contains no ids; expected one id a line, a table or JSON: {FORMS}")
    return names


def _parse_json(text: str) -> Any:
    """JSON, or else JSON Lines."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def _json_names(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, list):
        for item in node:
            yield from _json_names(item)
    elif isinstance(node, dict):
        fields = {_normalized(key): value for key, value in node.items()}
        values = [fields[name] for name in _COLUMNS if type(fields.get(name)) in (str, int)]
        if values:
            yield str(values[0])
        elif all(map(_LISTED.fullmatch, node)) and re.search("[^a-z]", "".join(node)):  # {"YTID": labels, ...}
            yield from node
        else:
            yield from _json_names([value for value in node.values() if isinstance(value, (list, dict))])


def _table_names(lines: Iterable[str]) -> Iterator[str]:
    rows = (line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    first = next(rows, "")
    for separator in _SEPARATORS:
        header = _fields(first, separator)
        names = [_normalized(name) for name in header]
        columns = [names.index(name) for name in _COLUMNS if name in names]
        if columns and not any(re.fullmatch(_TIME, name.strip()) for name in header):
            yield from (fields[columns[0]] for row in rows if len(fields := _fields(row, separator)) > columns[0])
            return
    for row in (first, *rows):
        yield _fields(row, "\t" if "\t" in row else ",")[0]


def _fields(row: str, separator: str) -> list[str]:
    if '"' in row:
        return next(csv.reader([row], delimiter=separator, skipinitialspace=True), [""])
    return row.split(separator)


def _normalized(column: str) -> str:
    return re.sub(r"[^a-z]", "", column.lower())


def _keys(name: str) -> set[str]:
    """The ids under which a clip with a listed name may be stored."""
    path = name.replace("\\", "/").removeprefix("./")
    stem = _ENDING.sub("", path)
    keys = {stem.rpartition("/")[2], stem}
    if match := _LISTED.fullmatch(path):
        keys |= _clip_keys(*match.groups())
    elif match := _OTHER.fullmatch(stem.rpartition("/")[2]):
        video, seconds, start, end = match.groups()
        if seconds or int(end) - int(start) in (10, 10_000):
            keys |= _clip_keys(video, seconds or start, end)
    parts = path.split("/")
    if stem == path:  # safe_id takes what precedes the last dot, and ends with a hash of 8 digits
        keys.add(safe_id(f"{path}.")[:-8])
    else:
        # Of an absolute path any part may be the path below source.root, also the bare name.
        last = len(parts) if path.startswith("/") or len(parts) == 1 else len(parts) - 1
        keys |= {path} | {safe_id("/".join(parts[first:])) for first in range(last)}
    return keys


def _other_keys(clip_id: str, file_id: str, media: str) -> Iterator[str]:
    """Keys of a clip whose id is not YTID_STARTMS: that of a file in a folder, or of another writer."""
    name = clip_id
    if match := _FOLDER_ID.fullmatch(file_id):
        name = match[1][:-1]
        yield match[1]
    if media:
        yield media.rpartition("/")[2]
    if match := _WITHIN_ID.fullmatch(name):
        yield match[1]
        yield from _clip_keys(*match.groups())


def _clip_keys(video: str, start: str | None, end: str | None) -> set[str]:
    """YTID_STARTMS of a segment, in both units where its own is unknown; the video itself without a time."""
    if start is None:
        return {video}
    number = float(start)
    if "." in start or (start[0] == "0" and len(start) > 1):
        in_seconds, in_ms = True, False
    elif end is not None:
        in_seconds = float(end) - number < 1000
        in_ms = not in_seconds
    else:
        in_seconds, in_ms = bool(number % 1000), True
    return {f"{video}_{round(number * unit)}" for unit, is_used in ((1000, in_seconds), (1, in_ms)) if is_used}
