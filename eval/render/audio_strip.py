"""The strip under a picture: loudness and colors of the audio features over time, with a cursor at the current time."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

from eval.inference.stream_maps import Video

PAGE_S = 30.0  # of a longer video, one page after the other is shown
HEIGHT_PX = 48  # at a width of 384: two thirds loudness, one third colors
ENVELOPE_HZ = 50
_RATE_HZ = 16000
_BACKGROUND, _LINE, _CURSOR = 24, 200, (255, 255, 255)


def envelope(video: Video) -> Float[np.ndarray, "N"]:
    """Peak amplitude of the audio in each of ENVELOPE_HZ parts of a second, float32; empty without audio."""
    peaks = [float(np.abs(block).max()) for block in video.audio_blocks(_RATE_HZ, _RATE_HZ // ENVELOPE_HZ)]
    return np.array(peaks, np.float32)


class AudioStrip:
    """Draws the strip at any time.

    Args:
        peaks: from `envelope`.
        times_s: [N], increasing.
        colors: of the audio features at these times, [N, 3], 0 to 1.
        duration_s: of the video.
    """

    def __init__(
        self,
        peaks: Float[np.ndarray, "M"],
        times_s: Float[np.ndarray, "N"],
        colors: Float[np.ndarray, "N 3"],
        duration_s: float,
    ) -> None:
        self._peaks, self._times_s, self._colors = peaks, times_s, colors
        self._page_s = max(min(duration_s, PAGE_S), 1e-3)
        self._draw_page = lru_cache(maxsize=1)(self._page)

    def draw(self, width_px: int, time_s: float | None) -> UInt8[np.ndarray, "H_px W_px 3"]:
        """The page of a time, with a cursor; None: the first page, without one."""
        page = int((time_s or 0.0) / self._page_s)
        strip = self._draw_page(page, width_px).copy()
        if time_s is not None:
            half = max(1, width_px // 768)
            at = int((time_s / self._page_s - page) * width_px)
            strip[:, max(0, at - half) : at + half] = _CURSOR
        return strip

    def _page(self, page: int, width_px: int) -> np.ndarray:
        height_px = HEIGHT_PX * max(1, width_px // 384)
        at_s = (page + (np.arange(width_px) + 0.5) / width_px) * self._page_s
        strip = np.full((height_px, width_px, 3), _BACKGROUND, np.uint8)
        loud_px = 2 * height_px // 3
        strip[:loud_px][self._loudness(at_s, loud_px)] = _LINE
        if len(self._times_s):
            nearest = np.clip(np.searchsorted(self._times_s, at_s, side="right") - 1, 0, len(self._times_s) - 1)
            strip[loud_px:] = (np.clip(self._colors[nearest], 0, 1) * 255).astype(np.uint8)
        return strip

    def _loudness(self, at_s: np.ndarray, height_px: int) -> np.ndarray:
        """Where the loudness is drawn, bool [height_px, W_px]: around the middle, the loudest over the whole height."""
        if not len(self._peaks):
            return np.zeros((height_px, len(at_s)), bool)
        index = (at_s * ENVELOPE_HZ).astype(int)
        peaks = np.where(index < len(self._peaks), self._peaks[np.minimum(index, len(self._peaks) - 1)], 0)
        half_px = np.maximum(0.5, 0.48 * height_px * peaks / max(float(self._peaks.max()), 1e-4))
        return np.abs(np.arange(height_px)[:, None] - (height_px - 1) / 2) <= half_px
