"""The report as one self-contained HTML file: images, audio and video are embedded."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.report.content import Section, report_content, with_rank_labels
from eval.report.figures import (
    LineChart,
    data_uri,
    draw_contour,
    jpeg_bytes,
    line_chart,
    scaled_overlay,
    upscale_integer,
)
from eval.report.templates import load_template, read_file
from eval.results import PREFIXES, Example, Results

IMAGE_WIDTH_PX = 192


def render_html(results: Results, history: Sequence[Mapping[str, float | int]], video: Path | None) -> str:
    """The page.

    Args:
        results: of the evaluation.
        history: one mapping for each logged training step, with `step`; may be empty.
        video: an mp4 to embed; None: no video.
    """
    content = report_content(results)
    sections: list[Section] = content["sections"]
    return load_template("report.html.j2", autoescape=True).render(
        content,
        css=read_file("report.css"),
        figures={one.task: [_figure(*labelled) for labelled in with_rank_labels(one.examples)] for one in sections},
        heads={one.task: _head_panels(one.examples[0]) for one in sections if one.examples},
        video_uri=data_uri("video/mp4", video.read_bytes()) if video else "",
        charts=_charts(history),
    )


def _figure(label: str, example: Example) -> dict[str, Any]:
    """An example: the image with the outlined target, the heatmap, and the audio."""
    import soundfile

    image, heatmap, target = (
        upscale_integer(array, IMAGE_WIDTH_PX) for array in (example.image, example.heatmap, example.target)
    )
    panels = [
        _panel(draw_contour(image, target), f"image, {example.prompt} outlined"),
        _panel(
            scaled_overlay(image, heatmap, float(heatmap.min()), float(heatmap.max())), f"heatmap for {example.prompt}"
        ),
    ]
    mp3 = io.BytesIO()
    if len(example.waveform):
        soundfile.write(mp3, example.waveform, example.sample_rate_hz, format="MP3")
    audio_uri = data_uri("audio/mpeg", mp3.getvalue()) if len(example.waveform) else ""
    return {"label": label, "example": example, "panels": panels, "audio_uri": audio_uri}


def _head_panels(example: Example) -> list[dict[str, Any]]:
    """The heatmap of each head; none for a single head."""
    if len(example.heads) == 1:
        return []
    image = upscale_integer(example.image, IMAGE_WIDTH_PX)
    low, high = float(example.heads.min()), float(example.heads.max())
    return [
        _panel(
            scaled_overlay(image, upscale_integer(heatmap, IMAGE_WIDTH_PX), low, high),
            f"head {number} for {example.prompt}",
        )
        for number, heatmap in enumerate(example.heads)
    ]


def _panel(image: np.ndarray, description: str) -> dict[str, Any]:
    """An embedded image with its size and description."""
    height_px, width_px = image.shape[:2]
    uri = data_uri("image/jpeg", jpeg_bytes(image))
    return {"uri": uri, "width_px": width_px, "height_px": height_px, "description": description}


def _charts(history: Sequence[Mapping[str, float | int]]) -> list[LineChart]:
    """One chart for each logged value, except the baselines, which the tables show."""
    baselines = tuple(f"eval/{prefix}/" for prefix in PREFIXES)
    names = dict.fromkeys(name for line in history for name in line if name != "step")
    lines = {name: [line for line in history if name in line] for name in names if not name.startswith(baselines)}
    return [line_chart(name, [one["step"] for one in of], [one[name] for one in of]) for name, of in lines.items()]
