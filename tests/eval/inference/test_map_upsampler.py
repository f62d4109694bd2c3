"""Guides by name: in results of the library, in videos and pictures, and for maps of any size."""

import numpy as np
import pytest
import torch
from tiny_localizer import tiny_localizer
from tiny_media import write_video

from configs.errors import UsageError
from eval.inference.map_upsampler import MapUpsampler
from eval.render.render import render_image, render_video
from model.upsamplers.load import load_upsampler
from model.upsamplers.maps import MAX_RATIO, upsample_maps
from model.upsamplers.stored import KINDS, StoredUpsampler, save_upsampler

GUIDES = {"jbu": {}, "naf": {"channels": 8}, "anyup": {"channels": 8}}


@pytest.fixture(scope="module")
def guides(tmp_path_factory):
    """Folders of untrained guides by kind."""
    root = tmp_path_factory.mktemp("guides")
    for kind, settings in {**GUIDES, "featup": {"channels": 4, "has_norm": False}}.items():
        (root / kind).mkdir()
        save_upsampler(StoredUpsampler(kind, settings, KINDS[kind](**settings)), root / kind)
    return root


@pytest.fixture(scope="module")
def localizer(tmp_path_factory):
    return tiny_localizer(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, 0.6)
    return path


@pytest.mark.parametrize("kind", [*GUIDES, "featup", "bicubic"])
def test_maps_of_a_result_are_upsampled_by_a_guide(guides, localizer, kind):
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    sound = (np.sin(np.arange(8000) / 9).astype(np.float32), 16000)
    name = kind if kind == "bicubic" else str(guides / kind)
    guided, plain = (localizer.localize(image, sound, upsampler=upsampler) for upsampler in (name, "bilinear"))
    assert guided.heatmaps.shape == plain.heatmaps.shape == (1, 60, 90) and guided.heatmaps.isfinite().all()
    assert not torch.allclose(guided.heatmaps, plain.heatmaps) and torch.equal(guided.grid_maps, plain.grid_maps)
    assert guided.by_head.shape == (1, 2, 60, 90) and guided.at(0.1).shape == (60, 90)


@pytest.mark.parametrize("kind", ["naf", "anyup"])
def test_videos_and_pictures_are_rendered_with_a_guide(guides, localizer, clip, tmp_path, kind):
    upsampler = str(guides / kind)
    render_video(localizer.model, clip, tmp_path / "guided.mp4", upsampler=upsampler)
    render_video(localizer.model, clip, tmp_path / "plain.mp4")
    assert (tmp_path / "guided.mp4").read_bytes() != (tmp_path / "plain.mp4").read_bytes()
    result = localizer.localize(clip, upsampler=upsampler)
    result.save(tmp_path / "result.mp4")
    assert (tmp_path / "result.mp4").stat().st_size > 1000
    image = np.zeros((40, 40, 3), np.uint8)
    assert render_image(localizer.model, image, clip, tmp_path / "a.png", upsampler=upsampler).path.is_file()


def test_large_frames_are_guided_at_most_at_16_times_the_grid(guides):
    guide = load_upsampler(str(guides / "naf"))
    maps, frames = torch.randn(1, 2, 3, 4), torch.randint(0, 256, (1, 3, 300, 400), dtype=torch.uint8)
    found = upsample_maps(guide, maps, None, frames, (300, 400))
    small = upsample_maps(guide, maps, None, frames, (3 * MAX_RATIO, 4 * MAX_RATIO))
    expected = torch.nn.functional.interpolate(small, (300, 400), mode="bilinear", align_corners=False)
    assert torch.allclose(found, expected, atol=1e-6)


def test_frames_and_features_that_a_guide_needs_are_asked_for(guides):
    maps, frames = torch.randn(1, 2, 3, 4), torch.zeros(1, 3, 30, 40, dtype=torch.uint8)
    with pytest.raises(ValueError, match="Naf is guided by the image: frames=None"):
        upsample_maps(load_upsampler(str(guides / "naf")), maps, None, None, (30, 40))
    with pytest.raises(ValueError, match="AnyUp reads the features: features=None"):
        upsample_maps(load_upsampler(str(guides / "anyup")), maps, None, frames, (30, 40))


def test_an_upsampler_that_cannot_be_loaded_is_one_line(localizer, tmp_path):
    with pytest.raises(UsageError, match="upsampler=sharp: allowed are bilinear, bicubic, anyup"):
        MapUpsampler.load(localizer.model, "sharp")
    with pytest.raises(ValueError, match=r"upsampler=.*: no model found"):
        MapUpsampler.load(localizer.model, str(tmp_path))
    settings = {"channels": 4, "frequencies": 2, "has_color": True}
    implicit = StoredUpsampler("featup_implicit", settings, KINDS["featup_implicit"](**settings))
    save_upsampler(implicit, tmp_path)
    with pytest.raises(UsageError, match=r"an implicit upsampler is fitted to one image"):
        MapUpsampler.load(localizer.model, str(tmp_path))
