"""Spoken words of clips with their times, from KEY.json: captions for a video, windows of audio steps for a benchmark.

KEY.json stores `words`, `[{"word", "start_s", "end_s"}, ...]`, in seconds from the start of the media file
(pipelines.sources.places_audio); the functions here give seconds from the start of the clip.
"""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from configs.errors import UsageError
from pipelines.shard_format import CorruptDataError, read_index, read_manifest
from pipelines.storage import Folder, open_folder

_MAX_JSON_BYTES = 1 << 26


class Word(NamedTuple):
    """A spoken word.

    Attributes:
        text: the word.
        start_s, end_s: when it is spoken, in seconds from the start of the clip; 0 <= start_s <= end_s.
    """

    text: str
    start_s: float
    end_s: float


def clip_words(metadata: Mapping[str, Any]) -> list[Word]:
    """The words of a clip in order of time.

    Args:
        metadata: content of KEY.json.

    Returns:
        The words that overlap the clip, with times cut to it; empty where KEY.json stores none.

    Raises:
        ValueError: `words`, or the times of the clip, do not have the stored form.
    """
    items = metadata.get("words", [])
    if not items:
        return []
    clip_start_s, clip_end_s = _time(metadata.get("start_s", 0.0)), metadata.get("end_s")
    duration_s = math.inf if clip_end_s is None else _time(clip_end_s) - clip_start_s
    if not isinstance(items, list):
        raise ValueError(f"words is a {type(items).__name__}, not a list")
    words = []
    for item in items:
        if not (isinstance(item, dict) and isinstance(item.get("word"), str)):
            raise ValueError(f"words holds {str(item)[:60]!r}, not a word with start_s and end_s")
        start_s, end_s = (_time(item.get(key)) - clip_start_s for key in ("start_s", "end_s"))
        if end_s < start_s:
            raise ValueError(f"word {item['word'][:60]!r} ends before it starts")
        if start_s < duration_s and (end_s > 0 or start_s >= 0):
            words.append(Word(item["word"], max(start_s, 0.0), min(end_s, duration_s)))
    return sorted(words, key=lambda word: word[1:])


def read_words(folder: str, ids: Collection[str]) -> dict[str, list[Word]]:
    """The words of clips of a data set, by id.

    Args:
        folder: of the shards and their manifest.json: local, or any address of fsspec.
        ids: of the clips.

    Returns:
        For each id what `clip_words` returns, such as `captions` of `eval.render`.

    Raises:
        UsageError: no data set, no clip with one of the ids, or a damaged KEY.json.
    """
    opened, found = open_folder(folder), dict[str, list[Word]]()
    manifest, problem = read_manifest(opened)
    if problem:
        raise UsageError(problem)
    for shard in manifest["shards"]:
        if len(found) == len(set(ids)):
            break
        try:
            ranges = read_index(opened, shard["name"]).byte_ranges
        except (FileNotFoundError, CorruptDataError) as error:
            raise UsageError(f"{folder}/{shard['name']}.json cannot be read: {error}") from None
        for clip in set(ids) - found.keys():
            if f"{clip}.json" in ranges:
                found[clip] = _read(opened, shard["name"], clip, *ranges[f"{clip}.json"])
    if missing := sorted(set(ids) - found.keys()):
        raise UsageError(f"{folder}: no clip has the id {missing[0]}; python -m pipelines.inspect {folder} lists ids")
    return found


def _read(folder: Folder, shard: str, clip: str, offset: int, size_bytes: int) -> list[Word]:
    try:
        if size_bytes > _MAX_JSON_BYTES:
            raise ValueError(f"{size_bytes} bytes, at most {_MAX_JSON_BYTES} are read")
        with folder.open(f"{shard}.tar") as file:
            file.seek(offset)
            metadata = json.loads(file.read(size_bytes))
        if not isinstance(metadata, dict):
            raise ValueError(f"a {type(metadata).__name__}, not an object")
        return clip_words(metadata)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{folder}/{shard}.tar: {clip}.json cannot be read: {error}") from None


def _time(value: object) -> float:
    """A time in seconds from a JSON file. Raises ValueError: not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:60]!r} is not a time in seconds")
    return float(value)
