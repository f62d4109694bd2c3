"""The page of `pipelines.inspect`: frames with their times, waveform, player and JSON of each clip, in one file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.inspect.clip_preview import ClipPreview, is_time, kind_of, member_lines, open_picture, summary_fields

_EMBEDDED_PX, _EMBEDDED_S = 640, 60  # larger pictures and longer sounds are reduced


def page_of(about: str, problems: Sequence[str], looks: Iterator[ClipPreview]) -> Iterator[str]:
    """The parts of the page, one after the other, so that only one clip is held at a time."""
    style = (Path(__file__).parent / "page.css").read_text()
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Clips</title><style>{style}</style></head><body><h1>Clips</h1><p>{html.escape(about)}</p>"
    yield "".join(f"<p class=bad>{html.escape(problem)}</p>" for problem in problems)
    for seen in looks:
        said = {
            name: html.escape(value) for name, value in {"shard": seen.shard, **summary_fields(seen)}.items() if value
        }
        text = f"<blockquote>{said.pop('text')}</blockquote>" if "text" in said else ""
        items = "".join(
            f"<li>{name.removesuffix(' s')} {value}</li>" for name, value in said.items() if name not in ("key", "s")
        )
        items += "".join(f"<li class=bad>{html.escape(problem)}</li>" for problem in seen.problems)
        yield f"<section><h2>{html.escape(seen.key)}</h2><ul>{items}</ul>{text}{_frames(seen)}{_player(seen)}"
        yield f"<details><summary>JSON</summary><pre>{html.escape(seen.json)}</pre></details>"
        yield f"<details><summary>Members</summary><pre>{html.escape(chr(10).join(member_lines(seen)))}</pre></details></section>"
    yield "</body></html>\n"


def _times_s(seen: ClipPreview) -> dict[str, float]:
    """When each frame is, by extension, where the JSON says it."""
    times, frames = (
        seen.described.get("frame_times_s"),
        (extension for extension in seen.members if kind_of(extension) in ("jpg", "png")),
    )
    return {e: t for e, t in zip(frames, times, strict=False) if is_time(t)} if isinstance(times, list) else {}


def _frames(seen: ClipPreview) -> str:
    times, figures = _times_s(seen), []
    for extension in (e for e in seen.data if kind_of(e) in ("jpg", "png")):
        picture = open_picture(seen.data[extension])
        picture.thumbnail((_EMBEDDED_PX, _EMBEDDED_PX))
        picture.save(buffer := io.BytesIO(), "JPEG", quality=90)
        said = html.escape(f"{times[extension]:.2f} s" if extension in times else extension)
        jpeg = base64.b64encode(buffer.getvalue()).decode()
        figures.append(
            f'<figure><img src="data:image/jpeg;base64,{jpeg}" alt="frame {said}"><figcaption>{said}</figcaption></figure>'
        )
    return f"<div class=frames>{''.join(figures)}</div>" if figures else ""


def _player(seen: ClipPreview) -> str:
    """The waveform, with the frames' times marked, and a player."""
    import numpy as np
    import soundfile

    if not len(seen.waveform):
        return ""
    duration_s = len(seen.waveform) / seen.rate_hz
    soundfile.write(
        played := io.BytesIO(),
        seen.waveform[: _EMBEDDED_S * seen.rate_hz],
        seen.rate_hz,
        format="FLAC",
        subtype="PCM_16",
    )
    parts = np.array_split(seen.waveform / max(np.abs(seen.waveform).max(), 1e-6), min(600, len(seen.waveform)))
    upper, lower = (
        [f"{number * 600 / len(parts):.1f},{50 - 48 * edge(part):.1f}" for number, part in enumerate(parts)]
        for edge in (np.max, np.min)
    )
    marks = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="100"/>'
        for t in _times_s(seen).values()
        if 0 <= (x := 600 * t / duration_s) <= 600
    )
    return (
        f'<svg viewBox="0 0 600 100" preserveAspectRatio="none" role="img" aria-label="waveform">{marks}'
        f'<path d="M{" L".join([*upper, *reversed(lower)])}Z"/></svg><div class=axis><span>0 s</span>'
        f"<span>{'lines: the frames' if marks else ''}</span><span>{duration_s:.2f} s</span></div>"
        f'<audio controls preload=none src="data:audio/flac;base64,{base64.b64encode(played.getvalue()).decode()}"></audio>'
    )
