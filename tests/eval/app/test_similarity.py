"""The similarity over time: that of the heatmaps which the renderer shows, measured in its first pass."""

import numpy as np
import pytest
from tiny_maps import red_and_blue, write_halves

from eval.app.similarity import Similarity
from eval.inference.stream_maps import stream_maps
from eval.inference.video_reader import VideoReader
from eval.render.render import render_video


@pytest.mark.parametrize(("view", "is_measured"), [("heatmap", True), ("heads", True), ("features", False)])
def test_lines_are_the_largest_values_of_the_heatmaps_of_each_head(tmp_path, view, is_measured):
    model, similarity, seen = red_and_blue(), Similarity(red_and_blue()), []

    def add(moments):
        seen.append(len(moments.times_s))
        similarity.add(moments)

    with VideoReader(write_halves(tmp_path / "in.mp4")) as video:
        render_video(model, video, tmp_path / "out.mp4", view, on_moments=add)
        found = similarity.timeline(video)
        expected = {round(maps.time_s, 3): maps.by_head.max(axis=(1, 2)) for maps in stream_maps(model, video)}
    assert bool(seen) == is_measured and found["duration_s"] == video.duration_s
    values = np.array(found["similarity"])
    assert values.shape == (2, len(found["times_s"])) and len(found["colors"]) == 2
    for time_s, heads in zip(found["times_s"], values.T, strict=True):
        assert heads == pytest.approx(expected[round(time_s, 3)], abs=1e-6)


def test_long_videos_have_at_most_600_points(tmp_path):
    similarity = Similarity(red_and_blue())
    similarity._times_s, similarity._values = np.arange(1501.0).tolist(), list(np.arange(3002.0).reshape(-1, 2))
    with VideoReader(write_halves(tmp_path / "in.mp4")) as video:
        found = similarity.timeline(video)
    assert len(found["times_s"]) == 501 and found["times_s"][:2] == [0, 3] and found["similarity"][1][1] == 7
