"""Places Audio 400k: images of Places205 with spoken captions.

    ROOT/metadata/train.json, val.json    splits train and val; another table with source.segments=FILE
    ROOT/metadata/SPLIT_alignments.json   optional word timings: `{"UTTID": [{"word", "start_s", "end_s"}, ...], ...}`
    ROOT/images/...                       images, as the table names them, for example images/b/boat_deck/gsun_00ab.jpg
    ROOT/wavs/...                         captions, as the table names them, for example wavs/123/utterance_45.wav

A table is `{"image_base_path", "audio_base_path", "data": [{"uttid", "speaker", "asr_text", "wav", "image"}, ...]}` in
UTF-8. The id of a clip is its uttid; its text is asr_text, which may be missing; it has no labels. Absolute base paths,
as in the published tables, are ignored, and `images` and `wavs` below ROOT are used; relative ones are below ROOT. An
item may hold its word timings itself, as "words". source.media and source.media_is_cut are not used. The table is read
into memory. Captions may be in any audio format that the build decodes.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from configs.errors import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import Clip, Rejected
from pipelines.sources.youtube_segments import table_path


def rows(source: SourceConfig) -> Iterator[Clip | Rejected]:
    """The captions of one split, in the order of their table.

    Raises:
        UsageError: the folder or table does not exist, or the table does not have the published form.
    """
    table = table_path(source, f"metadata/{source.split}.json", "metadata/, images/ and wavs/")
    try:
        content = json.loads(table.read_text(encoding="utf-8-sig"))
        items = content["data"]
        bases = {kind: content.get(f"{kind}_base_path", "") for kind in ("image", "audio")}
        if not isinstance(items, list) or not all(isinstance(base, str) for base in bases.values()):
            raise TypeError("data must be a list, and base paths strings")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f'{table} is not a table of Places Audio ({{"data": [...]}} in JSON): {error}') from None
    alignments = _alignments(table.parent / f"{source.split}_alignments.json")
    for number, item in enumerate(items):
        try:
            uttid, wav, image, text = item["uttid"], item["wav"], item["image"], item.get("asr_text") or ""
            if not all(isinstance(value, str) for value in (uttid, wav, image, text)):
                raise TypeError("another type")
            words = _words(item["words"] if "words" in item else alignments.get(uttid, []))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            wanted = "wanted uttid, wav, image and asr_text as texts, and words with their times"
            yield Rejected(f"item {number} of {table.name}", "bad_row", f"{wanted}: {type(error).__name__} {error}")
            continue
        media, image = _path(bases["audio"], "wavs", wav), _path(bases["image"], "images", image)
        yield Clip(
            id=uttid, media=media, image=image, split=source.split, source="places_audio", text=text, words=words
        )


def _alignments(table: Path) -> dict[str, Any]:
    """Word timings by caption id; empty if the table does not exist."""
    try:
        alignments = json.loads(table.read_text(encoding="utf-8-sig")) if table.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{table} is not a table of alignments in JSON: {error}") from None
    if not isinstance(alignments, dict):
        raise UsageError(
            f'{table} is not a table of alignments; expected {{"UTTID": [{{"word", "start_s", "end_s"}}, ...], ...}}'
        )
    return alignments


def _words(items: Sequence[dict[str, Any]]) -> tuple[tuple[str, float, float], ...]:
    words = tuple((item["word"], float(item["start_s"]), float(item["end_s"])) for item in items)
    if not all(isinstance(word, str) and 0 <= start_s <= end_s < math.inf for word, start_s, end_s in words):
        raise ValueError("words")
    return words


def _path(base: str, default: str, name: str) -> str:
    """Path of a file below the root; published names of captions already start with `wavs/`."""
    if base and not PurePosixPath(base).is_absolute():
        return f"{base.rstrip('/')}/{name}"
    return name if name.startswith(f"{default}/") else f"{default}/{name}"
