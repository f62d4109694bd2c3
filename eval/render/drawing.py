"""Draws one picture of a rendered video from a frame and its small maps."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8

from eval.inference.map_upsampler import MapUpsampler
from eval.render.audio_strip import AudioStrip
from eval.render.decorations import Caption, Scale, draw_caption, draw_color_scale, draw_head_colors, enlarge
from eval.render.views import features_view, heads_view, heatmap_view, side_by_side_view

View = Literal["heatmap", "heads", "head", "features", "side_by_side", "audio"]


class Drawing(NamedTuple):
    """How the pictures of a video are drawn.

    Attributes:
        view: see eval.render.render.render_video.
        upsample: brings maps to the size of the frames.
        scales: of each channel of the maps.
        strip: drawn under the picture; None: no strip.
        captions: spoken words.
        peak: amplitude of the audio.
    """

    view: View
    upsample: MapUpsampler
    scales: list[Scale]
    strip: AudioStrip | None
    captions: tuple[Caption, ...]
    peak: float

    def draw(
        self, frame: UInt8[np.ndarray, "H_px W_px 3"], maps: Float[np.ndarray, "C H W"] | None, time_s: float | None
    ) -> UInt8[np.ndarray, "H_out W_out 3"]:
        """The picture of a frame.

        Args:
            frame: RGB.
            maps: of the channels of the view; None: view=audio.
            time_s: of the frame; None: without cursor and caption.
        """
        shown = enlarge(frame)
        picture = shown.copy() if maps is None else self._with_maps(shown, self._upsample(shown, maps))
        if time_s is not None:
            draw_caption(picture, self.captions, time_s)
        return picture if self.strip is None else np.vstack([picture, self.strip.draw(picture.shape[1], time_s)])

    def _with_maps(self, frame: np.ndarray, maps: Float[np.ndarray, "C H_px W_px"]) -> np.ndarray:
        if self.view == "features":
            return features_view(frame, maps)
        if self.view == "heads":
            picture = heads_view(frame, maps)
            draw_head_colors(picture, len(maps))
            return picture
        picture = (side_by_side_view if self.view == "side_by_side" else heatmap_view)(frame, maps[0])
        draw_color_scale(picture, self.scales[0])
        return picture

    def _upsample(self, frame: np.ndarray, maps: Float[np.ndarray, "C H W"]) -> Float[np.ndarray, "C H_px W_px"]:
        scaled = np.stack([scale.apply(channel) for scale, channel in zip(self.scales, maps, strict=True)])
        size = (frame.shape[0], frame.shape[1])
        guide = torch.from_numpy(frame).permute(2, 0, 1)[None]
        return self.upsample(torch.from_numpy(scaled)[None], guide, size)[0].numpy()
