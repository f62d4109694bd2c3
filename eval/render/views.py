"""The views: pure functions of a frame and what was found in it, of the same size, to a picture.

Colors: inferno for one map, whose brightness grows with its value; for heads the palette of Okabe and Ito, whose colors
differ for color-blind people too.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, UInt8

from eval.report.figures import OPACITY, color_table

HEAD_RGB = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (255, 255, 255),
)
_DIMMED = 0.75  # of the frame under a map
_GAMMA = 0.8  # of the opacity
_FRAME_SHARE = 0.3  # of the frame in the view of features


def heatmap_view(frame: UInt8[np.ndarray, "H_px W_px 3"], heat: Float[np.ndarray, "H_px W_px"]) -> np.ndarray:
    """A dimmed, half-desaturated frame under a heatmap, 0 to 1, whose opacity grows with its value."""
    colors, remaining = _premultiplied()
    index = np.clip(heat * 255 + 0.5, 0, 255).astype(np.uint8)
    gray = _gray(frame)
    background = (frame + gray[..., None]) * np.float32(0.5 * _DIMMED)
    background *= remaining[index][..., None]
    background += colors[index]
    return background.astype(np.uint8)


def heads_view(frame: UInt8[np.ndarray, "H_px W_px 3"], heads: Float[np.ndarray, "K H_px W_px"]) -> np.ndarray:
    """A dimmed gray frame under the maps of all heads, 0 to 1, each in its color of HEAD_RGB; where heads overlap their
    colors mix.
    """
    heads = np.clip(heads, 0, 1)
    opacity = np.float32(OPACITY) * heads.max(axis=0) ** np.float32(_GAMMA)
    weights = heads / np.maximum(heads.sum(axis=0), 1e-6)
    colors = np.einsum("khw,kc->hwc", weights, np.array(HEAD_RGB[: len(heads)], np.float32))
    background = _gray(frame) * np.float32(_DIMMED) * (1 - opacity)
    return (background[..., None] + colors * opacity[..., None]).astype(np.uint8)


def features_view(frame: UInt8[np.ndarray, "H_px W_px 3"], colors: Float[np.ndarray, "3 H_px W_px"]) -> np.ndarray:
    """Colors of the image features, 0 to 1, over the gray frame: similar features have similar colors."""
    shown = np.clip(colors, 0, 1).transpose(1, 2, 0) * np.float32(255 * (1 - _FRAME_SHARE))
    return (shown + _gray(frame)[..., None] * np.float32(_FRAME_SHARE)).astype(np.uint8)


def side_by_side_view(frame: UInt8[np.ndarray, "H_px W_px 3"], heat: Float[np.ndarray, "H_px W_px"]) -> np.ndarray:
    """The frame, and right of it `heatmap_view`: [H_px, 2 W_px, 3]."""
    return np.hstack([frame, heatmap_view(frame, heat)])


def _gray(frame: np.ndarray) -> np.ndarray:
    """Mean of the channels, float32 [H_px, W_px]."""
    red, green, blue = (frame[..., channel].astype(np.float32) for channel in range(3))
    red += green
    red += blue
    red *= np.float32(1 / 3)
    return red


@cache
def _premultiplied() -> tuple[np.ndarray, np.ndarray]:
    """For each of 256 values: color times opacity, float32 [256, 3], and 1 - opacity, float32 [256]."""
    opacity = OPACITY * np.linspace(0, 1, 256) ** _GAMMA
    return (color_table() * opacity[:, None]).astype(np.float32), (1 - opacity).astype(np.float32)
