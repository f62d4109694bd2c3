"""The similarity of picture and sound over time, measured on the features that the renderer computes anyway."""

from typing import Any

import numpy as np

from eval.inference.stream_maps import Moments, Video, moment_maps, stream_moments
from eval.render.views import HEAD_RGB
from model.denseav import DenseAV

_MAX_POINTS = 600  # of a line
_FPS = 5.0  # where the renderer computes no features of moments


class Similarity:
    """Collects the largest value of each head's heatmap at the moments of a video.

    Args:
        model: computes the heatmaps.
    """

    def __init__(self, model: DenseAV) -> None:
        self._model = model
        self._times_s: list[float] = []
        self._values: list[np.ndarray] = []

    def add(self, moments: Moments) -> None:
        """Add moments, later than those before: the on_moments of eval.render.render.render_video."""
        self._times_s += moments.times_s.tolist()
        self._values += list(moment_maps(self._model, moments, per_head=True).max(axis=(2, 3)))

    def timeline(self, video: Video) -> dict[str, Any]:
        """The arguments of timeline_html: at most _MAX_POINTS moments, for as many heads as there are colors.

        A video whose moments were not added, because its view needs no heatmaps, is encoded first.
        """
        if not self._times_s:
            for moments in stream_moments(self._model, video, _FPS):
                self.add(moments)
        every = -(-len(self._times_s) // _MAX_POINTS)
        values = np.stack(self._values)[::every].T[: len(HEAD_RGB)]
        return {
            "times_s": self._times_s[::every],
            "similarity": values.tolist(),
            "colors": [list(color) for color in HEAD_RGB[: len(values)]],
            "duration_s": video.duration_s,
        }
