"""Images and charts of reports and videos: heatmap overlays, contours of targets, sheets of examples, line charts."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from eval.results import Example

OPACITY = 0.75
CONTOUR_RGB = (255, 255, 255)
PANEL_PX = 160
CAPTION_PX = 22
TEXT_RGB, BACKGROUND_RGB = (20, 20, 20), (255, 255, 255)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heatmap over an image, with an opacity that grows with its value.

    Args:
        image: uint8 [H_px, W_px, 3].
        heat: float [H_px, W_px], 0 to 1.

    Returns:
        uint8 [H_px, W_px, 3].
    """
    heat = np.clip(heat, 0, 1)
    colors = color_table()[(heat * 255).astype(np.uint8)]
    alpha = OPACITY * heat[..., None] ** 0.8
    # A dimmed, half-desaturated image makes the colors of the map stand out.
    background = 0.75 * (0.5 * image + 0.5 * image.mean(axis=-1, keepdims=True))
    return np.clip(background * (1 - alpha) + colors * alpha, 0, 255).astype(np.uint8)


def scaled_overlay(image: np.ndarray, heat: np.ndarray, low: float, high: float) -> np.ndarray:
    """An overlay of a heatmap stretched from `low`-`high` to the whole color scale, above that scale.

    Args:
        image: uint8 [H_px, W_px, 3].
        heat: float [H_px, W_px].
        low, high: values of the two ends of the scale.

    Returns:
        uint8 [H_px + CAPTION_PX, W_px, 3].
    """
    width_px = image.shape[1]
    drawn = overlay(image, (heat - low) / max(high - low, 1e-12))
    strip = Image.fromarray(caption_strip("", width_px))
    text, font = ImageDraw.Draw(strip), ImageFont.load_default(size=13)
    labels = f"{low:.2f}", f"{high:.2f}"
    left, right = (int(text.textlength(label, font=font)) + 7 for label in labels)
    text.text((3, 3), labels[0], fill=TEXT_RGB, font=font)
    text.text((width_px - right + 3, 3), labels[1], fill=TEXT_RGB, font=font)
    bar = np.linspace(0, 1, max(1, width_px - left - right))[None].repeat(CAPTION_PX - 12, axis=0)
    gray = np.full((*bar.shape, 3), 96, np.uint8)
    strip.paste(Image.fromarray(overlay(gray, bar)), (left, 6))
    return np.vstack([drawn, np.asarray(strip)])


def draw_contour(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Draw the border of a region, one pixel wide on either side.

    Args:
        image: uint8 [H_px, W_px, 3].
        target: bool [H_px, W_px], True inside.
    """
    padded = np.pad(target, 1, mode="edge")
    shifted = [
        padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))
    ]
    drawn = image.copy()
    drawn[np.any([neighbor != target for neighbor in shifted], axis=0)] = CONTOUR_RGB
    return drawn


def upscale_integer(image: np.ndarray, width_px: int) -> np.ndarray:
    """Enlarge an image or map by an integer factor to at least `width_px`; a larger one is returned unchanged."""
    factor = max(1, -(-width_px // image.shape[1]))
    if factor == 1:
        return image
    size = (image.shape[1] * factor, image.shape[0] * factor)
    if image.dtype == bool:
        return np.asarray(Image.fromarray(image.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)).astype(bool)
    return np.asarray(
        Image.fromarray(image if image.dtype == np.uint8 else image.astype(np.float32)).resize(
            size, Image.Resampling.BICUBIC
        )
    )


def heatmap_sheet(examples: Sequence[Example]) -> np.ndarray:
    """A row for each example: image with outlined target, heatmap, heatmap of each head, target; with captions.

    The maps of an example are on one scale, from their smallest to their largest value, which is drawn below them.
    """
    rows = []
    for example in examples:
        image = upscale_integer(example.image, PANEL_PX)
        maps = [upscale_integer(heat, image.shape[1]) for heat in (example.heatmap, *example.heads)]
        target = upscale_integer(example.target, image.shape[1])
        low, high = (float(value) for value in (example.heads.min(), example.heads.max()))
        panels = [draw_contour(image, target), *(scaled_overlay(image, heat, low, high) for heat in maps)]
        titles = [
            f"{example.value}, {example.prompt}",
            "heatmap",
            *(f"head {head}" for head in range(len(example.heads))),
        ]
        if example.rank is None:
            panels.append(np.repeat(np.where(target, 255, 0).astype(np.uint8)[..., None], 3, axis=2))
            titles.append("target")
        columns = [
            np.vstack([caption_strip(title, panel.shape[1]), panel])
            for title, panel in zip(titles, panels, strict=True)
        ]
        height_px = max(len(column) for column in columns)
        rows.append(np.hstack([_pad(column, height_px, column.shape[1]) for column in columns]))
    width_px = max(row.shape[1] for row in rows)
    return np.vstack([_pad(row, len(row), width_px) for row in rows])


def _pad(image: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """An image with white below and to the right of it."""
    below, right = height_px - image.shape[0], width_px - image.shape[1]
    return np.pad(image, ((0, below), (0, right), (0, 0)), constant_values=255)


def caption_strip(text: str, width_px: int) -> np.ndarray:
    """A strip with one line of text, clipped to the width."""
    strip = Image.new("RGB", (width_px, CAPTION_PX), BACKGROUND_RGB)
    ImageDraw.Draw(strip).text((3, 3), text, fill=TEXT_RGB, font=ImageFont.load_default(size=13))
    return np.asarray(strip)


def jpeg_bytes(image: np.ndarray) -> bytes:
    """A JPEG file of an image, uint8 [H_px, W_px, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def data_uri(media_type: str, content: bytes) -> str:
    """A `data:` URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class LineChart:
    """A small line chart, in pixels of the area that the constants describe.

    Attributes:
        lines: points of each unbroken line, `x,y x,y`; empty without a finite value.
        low, high: smallest and largest finite value.
        first_value, last_value: first and last finite value.
        first_step, last_step: ends of the horizontal axis.
    """

    WIDTH: ClassVar[int] = 300
    HEIGHT: ClassVar[int] = 130
    LEFT: ClassVar[int] = 56
    RIGHT: ClassVar[int] = 292
    TOP: ClassVar[int] = 8
    BOTTOM: ClassVar[int] = 110

    title: str
    lines: list[str]
    low: float = math.nan
    high: float = math.nan
    first_value: float = math.nan
    last_value: float = math.nan
    first_step: float = math.nan
    last_step: float = math.nan


def line_chart(title: str, steps: Sequence[float | int], values: Sequence[float | int]) -> LineChart:
    """Lay out a line chart of at least one value; values that are not finite leave a gap."""
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    finite = np.isfinite(y)
    if not finite.any():
        return LineChart(title, [])
    low, high = float(y[finite].min()), float(y[finite].max())
    px = LineChart.LEFT + (x - x[0]) / max(x[-1] - x[0], 1e-12) * (LineChart.RIGHT - LineChart.LEFT)
    py = LineChart.TOP + (high - y) / ((high - low) or 1.0) * (LineChart.BOTTOM - LineChart.TOP)
    runs = np.split(np.arange(len(x)), np.flatnonzero(~finite))
    lines = [" ".join(f"{px[i]:.1f},{py[i]:.1f}" for i in run if finite[i]) for run in runs if finite[run].any()]
    return LineChart(title, lines, low, high, y[finite][0], y[finite][-1], x[0], x[-1])


@cache
def color_table() -> np.ndarray:
    """float [256, 3], 0 to 255: a perceptually uniform color map."""
    import matplotlib

    return 255 * matplotlib.colormaps["inferno"](np.linspace(0.15, 1.0, 256))[:, :3]
