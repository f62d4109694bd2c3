"""Decode one clip of a shard for display. Shards may come from anyone: sizes are bounded and nothing is unpickled.

Limits: only jpg, png, flac, wav, npy and json members are decoded, up to 32 MiB each.
"""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard, TypeVar

import numpy as np
from PIL import Image

from pipelines.clip_words import Word, clip_words
from pipelines.rgb_image import upright_rgb
from pipelines.storage import Folder

_MAX_MEMBER_BYTES = 32 << 20
_MAX_PIXELS, _MAX_SAMPLES = 40_000_000, 100_000_000
_MAX_DECODED_FRAMES = 40
_MAX_TEXT_CHARACTERS, _MAX_WORDS = 20_000, 1000
Members = dict[str, tuple[int, int]]  # extension -> (offset, size) in bytes of the member's data in its tar
T = TypeVar("T")


@dataclass
class ClipPreview:
    """One clip, decoded as far as possible.

    Attributes:
        key: id of the clip.
        shard: name of the shard, without `.tar`.
        members: offset and size in bytes of every member, by extension.
        waveform: float32 [S], the mean of the channels; empty without audio.
        sample_rate_hz: 0 without audio.
        images: encoded bytes of the images that could be decoded, by extension; a clip with many has a sample of them.
        shapes: size of each image in pixels, dtype and shape of each array, by extension.
        metadata: content of the JSON members.
        json_text: the same, indented.
        problems: one line for each member that could not be decoded.
    """

    key: str
    shard: str
    members: Members
    waveform: np.ndarray
    sample_rate_hz: int = 0
    images: dict[str, bytes] = field(default_factory=dict)
    shapes: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    json_text: str = ""
    problems: list[str] = field(default_factory=list)


def read_preview(folder: Folder, shard: str, key: str, members: Members) -> ClipPreview:
    """Read and decode the members of a clip; each one that fails adds a line to `problems`."""
    images = evenly_spaced([e for e in members if is_image(e)], _MAX_DECODED_FRAMES)
    preview = ClipPreview(key, shard, members, np.zeros(0, np.float32))
    with folder.open(f"{shard}.tar") as file:
        for extension, (offset, size_bytes) in members.items():
            if extension not in images and suffix(extension) not in ("flac", "wav", "json", "npy"):
                continue
            try:
                if size_bytes > _MAX_MEMBER_BYTES:
                    raise ValueError(f"{size_bytes} bytes exceed the limit of {_MAX_MEMBER_BYTES}")
                file.seek(offset)
                data = file.read(size_bytes)
                if len(data) < size_bytes:
                    raise ValueError(f"truncated to {len(data)} of {size_bytes} bytes")
                _decode(preview, extension, data)
            except Exception as error:  # whatever decoders and file systems raise on hostile bytes
                reason = " ".join(str(error).split()) or type(error).__name__
                preview.problems.append(f"{extension} cannot be read: {reason}")
    return preview


def suffix(extension: str) -> str:
    """The last part of an extension: `0.jpg` -> `jpg`."""
    return extension.rpartition(".")[2]


def is_image(extension: str) -> bool:
    return suffix(extension) in ("jpg", "png")


def open_image(data: bytes) -> Image.Image:
    """Decode a JPEG or PNG to upright RGB. Raises ValueError for more than 40 million pixels."""
    image = Image.open(io.BytesIO(data), formats=["JPEG", "PNG"])
    if image.width * image.height > _MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} px exceed the limit of {_MAX_PIXELS}")
    return upright_rgb(image)


def _decode(preview: ClipPreview, extension: str, data: bytes) -> None:
    kind = suffix(extension)
    if is_image(extension):
        image = open_image(data)
        preview.images[extension], preview.shapes[extension] = data, f"{image.width}x{image.height} px"
    elif kind == "npy":
        array = np.load(io.BytesIO(data), allow_pickle=False)
        preview.shapes[extension] = f"{array.dtype} {array.shape}"
    elif kind == "json":
        content = json.loads(data)
        text = json.dumps(content, indent=1, ensure_ascii=False)
        cut = f"\n... {len(text)} characters" if len(text) > _MAX_TEXT_CHARACTERS else ""
        preview.json_text += f"{text[:_MAX_TEXT_CHARACTERS]}{cut}\n"
        preview.metadata.update(content if isinstance(content, dict) else {})
    elif not len(preview.waveform):
        preview.waveform, preview.sample_rate_hz = _decode_audio(data)


def _decode_audio(data: bytes) -> tuple[np.ndarray, int]:
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        is_small = file.frames * file.channels <= _MAX_SAMPLES and 1 <= file.samplerate <= 192_000
        if not is_small or file.format not in ("FLAC", "WAV", "WAVEX"):
            raise ValueError(f"{file.format} of {file.frames} samples at {file.samplerate} Hz is not supported")
        return np.nan_to_num(file.read(dtype="float32", always_2d=True).mean(axis=1)), file.samplerate


def summary_fields(preview: ClipPreview) -> dict[str, str]:
    """One line of text for each column of the table and for its words; empty where the clip has no such value."""
    metadata, rate_hz = preview.metadata, preview.sample_rate_hz
    start_s, end_s = (t if is_time(t := metadata.get(name)) else math.nan for name in ("start_s", "end_s"))
    image_count = sum(map(is_image, preview.members))
    sizes = " ".join(dict.fromkeys(shape for e, shape in preview.shapes.items() if is_image(e)))
    peak_dbfs = 20 * math.log10(max(abs(preview.waveform).max(initial=0), 1e-6))
    labels = metadata.get("labels", "")
    return {
        "key": preview.key,
        "source": str(metadata.get("source", ""))[:_MAX_TEXT_CHARACTERS],
        "segment": f"{start_s:.2f} - {end_s:.2f} s" if end_s >= start_s else "",
        "duration": f"{end_s - start_s:.2f} s" if end_s >= start_s else "",
        "frames": f"{image_count} of {sizes or 'unknown size'}" if image_count else "none",
        "audio": f"{len(preview.waveform) / rate_hz:.2f} s {rate_hz} Hz {peak_dbfs:.1f} dBFS" if rate_hz else "none",
        "labels": (", ".join(map(str, labels)) if isinstance(labels, list) else str(labels))[:_MAX_TEXT_CHARACTERS],
        "text": str(metadata.get("text", ""))[:_MAX_TEXT_CHARACTERS],
        "words": ", ".join(f"{text} {start_s:.2f} - {end_s:.2f} s" for text, start_s, end_s in spoken_words(preview)),
    }


def spoken_words(preview: ClipPreview) -> list[Word]:
    """At most 1000 words of the clip, with their times from its start; none where KEY.json has them in another form."""
    try:
        return [word for word in clip_words(preview.metadata) if is_time(word.end_s)][:_MAX_WORDS]
    except ValueError:
        return []


def frame_times_s(preview: ClipPreview) -> dict[str, float]:
    """Time of each frame by extension, for frames whose time the metadata gives."""
    times = preview.metadata.get("frame_times_s")
    frames = filter(is_image, preview.members)
    return {e: t for e, t in zip(frames, times, strict=False) if is_time(t)} if isinstance(times, list) else {}


def is_time(value: object) -> TypeGuard[float]:
    """Whether a value from a JSON file can be shown as seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def member_lines(preview: ClipPreview) -> list[str]:
    """One line for each member: extension, size, offset, and what it holds."""
    return [
        f"{e:<10}{size_bytes:>10} bytes at {offset:<12}{preview.shapes.get(e, '')}".rstrip()
        for e, (offset, size_bytes) in preview.members.items()
    ]


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, each from the middle of one of `count` equal parts."""
    count = min(count, len(items))
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]
