"""What is drawn over and around a picture: color scale, captions, messages; and small frames enlarged."""

from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from eval.render.views import HEAD_RGB
from eval.report.figures import color_table

MIN_WIDTH_PX = 384  # for text
_MAX_ENLARGED_PX = 1920
_SCALE_PX = (128, 8)  # the bar of a color scale at a width of 384, wide enough for its labels
_MAX_CAPTION_LETTERS = 42
_PAUSE_S = 0.8  # between words, which starts a new caption
_SPOKEN_RGB, _TEXT_RGB, _OUTLINE_RGB = (255, 220, 80), (255, 255, 255), (0, 0, 0)


class Caption(NamedTuple):
    """A word and when it is spoken, in seconds from the start of the file."""

    word: str
    start_s: float
    end_s: float


class Scale(NamedTuple):
    """The values that a map shows as its darkest and its brightest color."""

    low: float
    high: float

    def apply(self, maps: np.ndarray) -> np.ndarray:
        """Bring maps to 0 to 1; values outside the scale are not clipped."""
        return (maps - np.float32(self.low)) / np.float32(max(self.high - self.low, 1e-9))


def enlarge(frame: UInt8[np.ndarray, "H_px W_px 3"]) -> UInt8[np.ndarray, "H_out W_out 3"]:
    """Enlarge a small frame by an integer factor to a width of MIN_WIDTH_PX, but no side beyond _MAX_ENLARGED_PX."""
    height_px, width_px = frame.shape[:2]
    factor = min(-(-MIN_WIDTH_PX // width_px), _MAX_ENLARGED_PX // max(height_px, width_px))
    if factor <= 1:
        return frame
    size = (width_px * factor, height_px * factor)
    return np.array(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def draw_color_scale(picture: UInt8[np.ndarray, "H_px W_px 3"], scale: Scale, label: str = "similarity") -> None:
    """Draw a color bar with its smallest and largest value into the lower right corner, in place."""
    unit = max(1, picture.shape[1] // MIN_WIDTH_PX)
    width_px, height_px = (side * unit for side in _SCALE_PX)
    colors = np.repeat(color_table()[np.linspace(0, 255, width_px).astype(int)][None], height_px, axis=0)
    _paste(picture, _with_labels(colors.astype(np.uint8), f"{scale.low:.2g}", f"{scale.high:.2g}", label, unit))


def draw_head_colors(picture: UInt8[np.ndarray, "H_px W_px 3"], count: int) -> None:
    """Draw the colors of the heads with their numbers into the lower right corner, in place."""
    unit = max(1, picture.shape[1] // MIN_WIDTH_PX)
    size = 11 * unit
    box = Image.new("RGB", (48 * unit * count, size + 6 * unit))
    draw = ImageDraw.Draw(box)
    for head in range(count):
        left = head * 48 * unit + 3 * unit
        draw.rectangle((left, 3 * unit, left + 8 * unit, 3 * unit + size - 2 * unit), fill=HEAD_RGB[head])
        draw.text((left + 11 * unit, 2 * unit), f"head {head}", fill=_TEXT_RGB, font=_font(9 * unit))
    _paste(picture, np.asarray(box))


def draw_caption(picture: UInt8[np.ndarray, "H_px W_px 3"], captions: Sequence[Caption], time_s: float) -> None:
    """Draw the line that is spoken at a time at the lower edge, in place, its current word in another color."""
    line = next((line for line in _lines(tuple(captions)) if line[0].start_s <= time_s < _shown_until(line)), None)
    if line is None:
        return
    spoken = max((number for number, word in enumerate(line) if word.start_s <= time_s), default=0)
    words = [word.word for word in line]
    height_px, width_px = picture.shape[:2]
    size_px = max(9, min(width_px // 22, height_px // 8))
    font = _font(size_px)
    text = " ".join(words)
    size_px = max(6, min(size_px, int(size_px * 0.94 * width_px / max(1.0, font.getlength(text)))))
    font = _font(size_px)
    top_px = max(0, height_px - 3 * size_px)
    band = Image.fromarray(picture[top_px : top_px + 2 * size_px])
    draw, left_px = ImageDraw.Draw(band), (width_px - font.getlength(text)) / 2
    for number, word in enumerate(words):
        color = _SPOKEN_RGB if number == spoken and time_s < line[number].end_s else _TEXT_RGB
        draw.text(
            (left_px, size_px * 0.3), word, fill=color, font=font, stroke_width=max(1, size_px // 10),
            stroke_fill=_OUTLINE_RGB,
        )  # fmt: skip
        left_px += font.getlength(word + " ")
    picture[top_px : top_px + 2 * size_px] = np.asarray(band)


def message_picture(text: str, width_px: int = 640, height_px: int = 360) -> UInt8[np.ndarray, "H_px W_px 3"]:
    """A line of text on black."""
    picture = Image.new("RGB", (width_px, height_px))
    ImageDraw.Draw(picture).text(
        (width_px / 2, height_px / 2), text, fill=(150, 150, 150), font=_font(max(9, width_px // 32)), anchor="mm"
    )
    return np.array(picture)


@lru_cache(maxsize=4)
def _lines(captions: tuple[Caption, ...]) -> list[list[Caption]]:
    """Words in lines, which end with a pause or a number of letters."""
    lines: list[list[Caption]] = []
    for word in captions:
        line = lines[-1] if lines else []
        letters = sum(len(other.word) + 1 for other in line) + len(word.word)
        if not line or word.start_s - line[-1].end_s > _PAUSE_S or letters > _MAX_CAPTION_LETTERS:
            lines.append([word])
        else:
            line.append(word)
    return lines


def _shown_until(line: list[Caption]) -> float:
    return max(word.end_s for word in line) + 0.1


def _with_labels(bar: np.ndarray, low: str, high: str, label: str, unit: int) -> np.ndarray:
    """A bar with a line of text above it, on black."""
    font, margin = _font(9 * unit), 3 * unit
    box = Image.new("RGB", (bar.shape[1] + 2 * margin, bar.shape[0] + 12 * unit + 2 * margin))
    draw = ImageDraw.Draw(box)
    box.paste(Image.fromarray(bar), (margin, 12 * unit + margin))
    draw.text((margin, margin - unit), low, fill=_TEXT_RGB, font=font)
    draw.text((box.width - margin, margin - unit), high, fill=_TEXT_RGB, font=font, anchor="ra")
    draw.text((box.width / 2, margin - unit), label, fill=_TEXT_RGB, font=font, anchor="ma")
    return np.asarray(box)


def _paste(picture: np.ndarray, box: np.ndarray) -> None:
    """Copy a box into the lower right corner, if it takes less than half of the picture in both directions."""
    height_px, width_px = box.shape[:2]
    if 2 * height_px < picture.shape[0] and 2 * width_px < picture.shape[1]:
        area = picture[picture.shape[0] - height_px :, picture.shape[1] - width_px :]
        area[:] = area // 4 + box // 4 * 3


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans (Latin, Greek, Cyrillic and more), which comes with matplotlib."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size_px)
