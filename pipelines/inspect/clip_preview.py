"""One clip of a shard, read and decoded as far as that is safe: for people, not for training.

Limits: only jpg, png, flac, wav, npy and json are looked into, up to 32 MiB a member; nothing is unpickled.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipelines.storage import Folder

_MAX_MEMBER_BYTES = 32 << 20
_MAX_PIXELS, _MAX_SAMPLES = 40_000_000, 100_000_000
_MAX_FRAMES = 40  # of a clip that are decoded, evenly chosen
_MAX_TEXT = 20_000  # characters
Members = dict[str, tuple[int, int]]  # (offset, size) in bytes of each member's data in its tar, by extension


class ClipPreview(NamedTuple):
    """What was seen of one clip."""

    key: str
    shard: str
    members: Members
    described: dict[str, Any]  # its JSON
    json: str  # the same for people
    data: dict[str, bytes]  # of members that could be read
    forms: dict[str, str]  # size in pixels of each frame, type and shape of each array
    waveform: Any  # float32 [S], the mean of the channels; empty: there is none
    rate_hz: int
    problems: list[str]


def read_preview(folder: Folder, shard: str, key: str, members: Members) -> ClipPreview:
    """Read and decode what is allowed of a clip; whatever cannot be read becomes a problem of one line."""
    import numpy as np

    pictures = evenly_spaced([e for e in members if kind_of(e) in ("jpg", "png")], _MAX_FRAMES)
    seen = ClipPreview(key, shard, members, {}, "", {}, {}, np.zeros(0, np.float32), 0, [])
    with folder.open(f"{shard}.tar") as file:
        for extension in [e for e in members if e in pictures or kind_of(e) in ("flac", "wav", "json", "npy")]:
            try:
                (offset, size_bytes), kind = members[extension], kind_of(extension)
                file.seek(offset)
                data = file.read(min(size_bytes, _MAX_MEMBER_BYTES))
                if len(data) < size_bytes:
                    raise ValueError(
                        f"of {size_bytes} bytes {len(data)} are there"
                        if len(data) < _MAX_MEMBER_BYTES
                        else f"{size_bytes} bytes are too many"
                    )
                if kind in ("jpg", "png"):
                    seen.forms[extension] = "{0.width}x{0.height} px".format(open_picture(data))
                elif kind in ("flac", "wav") and not len(seen.waveform):
                    seen = seen._replace(**_sound(data))
                elif kind == "npy":
                    seen.forms[extension] = "{0.dtype} {0.shape}".format(np.load(io.BytesIO(data), allow_pickle=False))
                elif kind == "json":
                    content = json.loads(data)
                    text = json.dumps(content, indent=1, ensure_ascii=False)
                    seen = seen._replace(
                        json=seen.json
                        + text[:_MAX_TEXT]
                        + (f"\n... {len(text)} characters\n" if len(text) > _MAX_TEXT else "\n")
                    )
                    seen.described.update(content if isinstance(content, dict) else {})
                seen.data[extension] = data
            except Exception as error:  # whatever decoders and file systems raise on hostile bytes
                seen.problems.append(
                    f"{extension} cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
                )
    return seen


def kind_of(extension: str) -> str:
    return extension.rpartition(".")[2]


def open_picture(data: bytes) -> Any:
    from PIL import Image

    picture = Image.open(io.BytesIO(data), formats=["JPEG", "PNG"])
    if picture.width * picture.height > _MAX_PIXELS:
        raise ValueError(f"{picture.width}x{picture.height} px are more than {_MAX_PIXELS}")
    return picture.convert("RGB")


def _sound(data: bytes) -> dict[str, Any]:
    import numpy as np
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        if (
            file.format not in ("FLAC", "WAV", "WAVEX")
            or file.frames * file.channels > _MAX_SAMPLES
            or not 1 <= file.samplerate <= 192_000
        ):
            raise ValueError(f"{file.format} of {file.frames} samples at {file.samplerate} Hz")
        return {
            "waveform": np.nan_to_num(file.read(dtype="float32", always_2d=True).mean(axis=1)),
            "rate_hz": file.samplerate,
        }


def summary_fields(seen: ClipPreview) -> dict[str, str]:
    """What is said of a clip, by the names of _COLUMNS; "" where its members do not say it."""
    start_s, end_s = (
        value if is_time(value := seen.described.get(name)) else math.nan for name in ("start_s", "end_s")
    )
    sides = dict.fromkeys(form for extension, form in seen.forms.items() if kind_of(extension) != "npy")
    peak = abs(seen.waveform).max(initial=0)
    labels = seen.described.get("labels", "")
    return {
        "key": seen.key,
        "source": str(seen.described.get("source", ""))[:_MAX_TEXT],
        "segment s": f"{start_s:.2f} - {end_s:.2f}" if end_s >= start_s else "",
        "s": f"{end_s - start_s:.2f}" if end_s >= start_s else "",
        "frames": f"{count} of {' '.join(sides) or 'unknown size'}"
        if (count := sum(kind_of(e) in ("jpg", "png") for e in seen.members))
        else "none",
        "sound": f"{len(seen.waveform) / seen.rate_hz:.2f} s {seen.rate_hz} Hz {20 * math.log10(max(peak, 1e-6)):.1f} dBFS"
        if seen.rate_hz
        else "none",
        "labels": (", ".join(map(str, labels)) if isinstance(labels, list) else str(labels))[:_MAX_TEXT],
        "text": str(seen.described.get("text", ""))[:_MAX_TEXT],
    }


def is_time(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9


def member_lines(seen: ClipPreview) -> list[str]:
    return [
        f"{e:<10}{size_bytes:>10} bytes at {offset:<12}{seen.forms.get(e, '')}".rstrip()
        for e, (offset, size_bytes) in seen.members.items()
    ]


def evenly_spaced(items: Sequence[Any], count: int) -> list[Any]:
    """Some of the items, from the middles of equal parts."""
    count = min(count, len(items))
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]
