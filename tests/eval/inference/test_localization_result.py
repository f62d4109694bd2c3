"""Localization: times, masks, overlays and files of a result."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_localizer import tiny_localizer, write_image, write_sound

from configs.errors import UsageError
from eval.inference.localization import Localization, Moments


@pytest.fixture
def result():
    """A step over two moments: head 0 is high on the left in the first second, head 1 on the right in the second."""
    by_head = torch.zeros(2, 2, 1, 2)
    by_head[0, 0, 0, 0], by_head[1, 1, 0, 1] = 4.0, 2.0
    moments = Moments(np.array([0.0, 1.0]), np.array([0.5, 1.5]), 2.0, by_head.amax(dim=1), np.zeros(2, np.int64))
    maps = torch.tensor([[[2.0, 1.0]]])
    frames = torch.full((1, 3, 2, 4), 100, dtype=torch.uint8)
    return Localization(frames, np.zeros(1), moments.middles_s, 3.0, maps, by_head.mean(dim=0)[None], moments)


def test_maps_are_brought_to_pixels(result):
    assert result.size_px == (2, 4)
    assert result.heatmaps.tolist() == [[[2.0, 1.75, 1.25, 1.0]] * 2]
    assert result.by_head.shape == (1, 2, 2, 4) and result.by_head[0, 0, 0].tolist() == [2.0, 1.5, 0.5, 0.0]


def test_at_is_the_moment_of_a_time_and_between_the_mean_of_moments(result):
    assert result.at(0.0)[0, 0] == result.at(0.99)[0, 0] == 4 and result.at(1.0)[0, 3] == result.at(2.0)[0, 3] == 2
    assert result.between(0, 2)[0].tolist() == [2.0, 1.75, 1.25, 1.0]
    assert torch.equal(result.between(0.5, 1.5), result.at(0.5))
    for call, message in (
        (lambda: result.at(2.1), r"at\(2\.1\): allowed is 0 to 2\.00 s"),
        (lambda: result.at(-1), "allowed is 0 to"),
        (lambda: result.at(float("nan")), "allowed is 0 to"),
        (lambda: result.between(0.6, 0.7), r"no moment lies there; moments lie from 0\.50 to 1\.50 s"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


def test_a_mask_is_true_above_a_fraction_of_the_range(result):
    assert result.mask(0.5).dtype == torch.bool
    assert result.mask(0.5)[0, 0].tolist() == [True, True, False, False]
    assert result.mask(0.8)[0, 0].tolist() == [True, False, False, False] and not result.mask(1).any()
    with pytest.raises(UsageError, match=r"mask\(1\.5\): allowed is 0 to 1"):
        result.mask(1.5)


def test_an_overlay_is_brightest_where_the_map_is_high(result):
    red = np.asarray(result.overlay(0))[0, :, 0].astype(int)
    assert result.overlay(0).size == (4, 2) and red[0] > red[3]
    right = np.asarray(result.overlay(-1, head=1))[0, :, 0].astype(int)
    assert right[3] > right[0]
    with pytest.raises(UsageError, match="head=2: this model has 2, counted from 0"):
        result.overlay(0, head=2)
    with pytest.raises(IndexError):
        result.overlay(1)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG"])
def test_an_image_is_saved_whole_or_not_at_all(result, tmp_path, name):
    assert result.save(tmp_path / name) == tmp_path / name
    with Image.open(tmp_path / name) as saved:
        saved.load()
        assert saved.size == (4, 2) and saved.format == ("PNG" if name.endswith("png") else "JPEG")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_another_kind_of_file_or_view_is_one_line(result, tmp_path):
    with pytest.raises(UsageError, match=r"a\.gif: allowed is \.png, \.jpg, \.jpeg"):
        result.save(tmp_path / "a.gif")
    with pytest.raises(UsageError, match=r"view=maps: allowed is heatmap, heads"):
        result.save(tmp_path / "a.png", view="maps")
    assert not list(tmp_path.iterdir())


def test_the_result_prints_its_sizes(tmp_path):
    localizer = tiny_localizer(tmp_path)
    result = localizer.localize(write_image(tmp_path / "a.png"), write_sound(tmp_path / "a.wav"))
    assert repr(result).startswith("Localization(1 frames of 64 x 48 px, ")
