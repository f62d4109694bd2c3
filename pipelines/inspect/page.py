"""The HTML page of `pipelines.inspect`: frames with their times, waveform, spoken words, audio player and JSON of each
clip, in one self-contained file."""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from configs.errors import CommandFailed
from pipelines.clip_words import Word
from pipelines.inspect.clip_preview import (
    ClipPreview,
    frame_times_s,
    member_lines,
    open_image,
    spoken_words,
    summary_fields,
)

_MAX_EMBEDDED_PX, _MAX_EMBEDDED_S = 640, 60  # larger images are downscaled, longer audio is truncated
_WAVEFORM_WIDTH, _WAVEFORM_HEIGHT = 600, 100  # units of the SVG
_CHARACTER_WIDTH, _MAX_LABEL_CHARACTERS = 0.75, 24  # of the label of a word, in percent of the width of the waveform


def write_page(file: BinaryIO, summary: str, problems: Sequence[str], previews: Iterable[ClipPreview]) -> None:
    """Render the page into a file. `previews` is consumed lazily, so only one clip is in memory at a time.

    Raises:
        CommandFailed: the installed package lacks the template or the style sheet.
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_package_file("page.html.j2"))
    style = markupsafe.Markup(_package_file("page.css"))
    clips = map(_template_values, previews)
    template.stream(style=style, summary=summary, problems=problems, clips=clips).dump(file, "utf-8", "replace")


def _package_file(name: str) -> str:
    path = Path(__file__).with_name(name)
    try:
        return path.read_text()
    except FileNotFoundError:
        raise CommandFailed(
            f"{path} is missing: this installation is incomplete; run pip install --force-reinstall denseav-trainer"
        ) from None


def _template_values(preview: ClipPreview) -> dict[str, Any]:
    fields = {name: value for name, value in {"shard": preview.shard, **summary_fields(preview)}.items() if value}
    fields.pop("words", None)
    words = spoken_words(preview)
    audio_s = len(preview.waveform) / preview.sample_rate_hz if preview.sample_rate_hz else 0.0
    labels = _word_labels(words, audio_s or max((word.end_s for word in words), default=0.0))
    return {
        "key": fields.pop("key", ""),
        "text": fields.pop("text", ""),
        "fields": fields,
        "problems": preview.problems,
        "frames": _frames(preview),
        "audio": _audio(preview) if len(preview.waveform) else None,
        "words": labels,
        "word_lanes": 1 + max((label["lane"] for label in labels), default=-1),
        "json": preview.json_text,
        "members": "\n".join(member_lines(preview)),
    }


def _frames(preview: ClipPreview) -> list[dict[str, str]]:
    times_s, frames = frame_times_s(preview), []
    for extension, data in preview.images.items():
        image = open_image(data)
        image.thumbnail((_MAX_EMBEDDED_PX, _MAX_EMBEDDED_PX))
        image.save(buffer := io.BytesIO(), "JPEG", quality=90)
        caption = f"{times_s[extension]:.2f} s" if extension in times_s else extension
        frames.append({"caption": caption, "jpeg": base64.b64encode(buffer.getvalue()).decode()})
    return frames


def _audio(preview: ClipPreview) -> dict[str, Any]:
    """The waveform as an SVG outline, the frame times as x positions on it, and the encoded audio."""
    import soundfile

    waveform, rate_hz = preview.waveform, preview.sample_rate_hz
    duration_s = len(waveform) / rate_hz
    soundfile.write(
        encoded := io.BytesIO(), waveform[: _MAX_EMBEDDED_S * rate_hz], rate_hz, format="FLAC", subtype="PCM_16"
    )
    peak, middle = max(np.abs(waveform).max(), 1e-6), _WAVEFORM_HEIGHT / 2
    bins = np.array_split(waveform / peak, min(_WAVEFORM_WIDTH, len(waveform)))
    upper, lower = (
        [f"{n * _WAVEFORM_WIDTH / len(bins):.1f},{middle - 48 * edge(part):.1f}" for n, part in enumerate(bins)]
        for edge in (np.max, np.min)
    )
    positions = [_WAVEFORM_WIDTH * t_s / duration_s for t_s in frame_times_s(preview).values()]
    return {
        "width": _WAVEFORM_WIDTH,
        "height": _WAVEFORM_HEIGHT,
        "outline": f"M{' L'.join([*upper, *reversed(lower)])}Z",
        "frame_positions": [f"{x:.1f}" for x in positions if 0 <= x <= _WAVEFORM_WIDTH],
        "duration": f"{duration_s:.2f} s",
        "flac": base64.b64encode(encoded.getvalue()).decode(),
    }


def _word_labels(words: Sequence[Word], duration_s: float) -> list[dict[str, Any]]:
    """Labels of words under the waveform: text, start and end, and positions in percent of its width.

    A label begins where its word does, in the first lane that has room for its text.
    """
    labels: list[dict[str, Any]] = []
    lane_ends: list[float] = []
    for text, start_s, end_s in words:
        start, end = (min(100.0, 100 * time_s / duration_s) if duration_s else 0.0 for time_s in (start_s, end_s))
        shown = text if len(text) <= _MAX_LABEL_CHARACTERS else f"{text[: _MAX_LABEL_CHARACTERS - 1]}…"
        width = _CHARACTER_WIDTH * (2 + max(len(shown), len(f"{start_s:.2f}")))
        left = max(0.0, min(start, 100 - width))
        lane = next((number for number, lane_end in enumerate(lane_ends) if lane_end <= left), len(lane_ends))
        lane_ends[lane : lane + 1] = [left + width]
        labels.append(
            {
                "text": shown,
                "title": f"{text} {start_s:.2f} - {end_s:.2f} s",
                "time": f"{start_s:.2f}",
                "left": f"{left:.2f}",
                "lane": lane,
                "x": f"{start * _WAVEFORM_WIDTH / 100:.1f}",
                "width": f"{max(end - start, 0.1) * _WAVEFORM_WIDTH / 100:.1f}",
            }
        )
    return labels
