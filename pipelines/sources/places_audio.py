"""Places Audio 400k: a picture of Places205 and a spoken caption.

    ROOT/metadata/train.json, val.json        splits train and val; for another table give source.segments
    ROOT/images/...                           the pictures, as the table names them
    ROOT/wavs/...                             the captions, as the table names them

A table is `{"image_base_path", "audio_base_path", "data": [{"uttid", "speaker", "asr_text", "wav", "image"}, ...]}`. The published base paths are
absolute paths on its authors' machines: those are ignored, and `images` and `wavs` below ROOT are used; relative ones count from ROOT.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath

from configs.command import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import Clip, Rejected
from pipelines.sources.segments import table_path


def rows(source: SourceConfig) -> Iterator[Clip | Rejected]:
    """The captions of one split, in the order of their table.

    Raises:
        UsageError: no such folder or table, or one that is not in the published form.
    """
    table = table_path(source, f"metadata/{source.split}.json", "metadata/, images/ and wavs/")
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        items = content["data"]
        bases = {kind: content.get(f"{kind}_base_path", "") for kind in ("image", "audio")}
        if not isinstance(items, list) or not all(isinstance(base, str) for base in bases.values()):
            raise TypeError("data is no list, or a base path no text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f'{table} is not a table of Places Audio ({{"data": [...]}} in JSON): {error}') from None
    for number, item in enumerate(items):
        try:
            uttid, wav, image, text = item["uttid"], item["wav"], item["image"], item.get("asr_text") or ""
            if not all(isinstance(value, str) for value in (uttid, wav, image, text)):
                raise TypeError("another type")
        except (KeyError, TypeError, AttributeError) as error:
            yield Rejected(f"item {number} of {table.name}", "bad_row", f"wanted uttid, wav, image and asr_text as texts: {type(error).__name__} {error}")
            continue
        media, image = _path(bases["audio"], "wavs", wav), _path(bases["image"], "images", image)
        yield Clip(id=uttid, media=media, image=image, split=source.split, source="places_audio", text=text)


def _path(base: str, default: str, name: str) -> str:
    """A file's path below the root; the published names of captions start with `wavs/` already."""
    if base and not PurePosixPath(base).is_absolute():
        return f"{base.rstrip('/')}/{name}"
    return name if name.startswith(f"{default}/") else f"{default}/{name}"
