"""The implicit upsampler is fitted to one image: its error falls, the result is stored, and the fit ends by itself."""

import math

import pytest
import torch
from torch.nn import functional

from model.upsamplers import implicit_fit
from model.upsamplers.implicit_fit import FitSettings, fit_implicit
from model.upsamplers.stored import StoredUpsampler, read_upsampler_folder, save_upsampler

STRIDE = 8
SETTINGS = FitSettings(views=12, steps=60, views_per_step=4, pca_views=4, channels=6, frequencies=4, max_pad=8)


@pytest.fixture
def image():
    """A bright disk on a dark ground, normalized."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(48), indexing="ij")
    disk = ((rows - 16) ** 2 + (columns - 20) ** 2 < 100).float()
    return torch.stack([disk, 1 - disk, 0.5 * disk])[None] * 2 - 1


def encode(image):
    """Eight channels that follow the colors, on a grid of 8 px."""
    mix = torch.linspace(-1, 1, 24).view(8, 3)
    return functional.avg_pool2d(torch.einsum("bchw,dc->bdhw", image, mix), STRIDE)


def test_the_error_falls_and_the_features_follow_the_edge_of_the_disk(image):
    seen = []
    model = fit_implicit(image, encode, STRIDE, SETTINGS._replace(steps=150), on_progress=seen.append)
    views, steps = ([one for one in seen if one.stage == stage] for stage in ("views", "steps"))
    assert [one.done for one in views] == list(range(1, 13)) and all(math.isnan(one.error) for one in views)
    assert sum(one.error for one in steps[-20:]) < 0.3 * sum(one.error for one in steps[:20])
    with torch.inference_mode():
        features = model(image)
    assert features.shape == (1, 8, 32, 48)
    exact = torch.einsum("bchw,dc->bdhw", image, torch.linspace(-1, 1, 24).view(8, 3))
    smooth = functional.interpolate(encode(image), (32, 48), mode="bilinear", align_corners=False)
    assert (features - exact).square().mean() < (smooth - exact).square().mean()


def test_the_same_seed_gives_the_same_fit_and_leaves_torchs_random_state(image):
    state = torch.random.get_rng_state()
    one, same, other = (fit_implicit(image, encode, STRIDE, SETTINGS._replace(steps=3), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    first, second, third = (model(image) for model in (one, same, other))
    assert torch.equal(first, second) and not torch.allclose(first, third)


def test_a_stored_fit_gives_the_same_features(image, tmp_path):
    model = fit_implicit(image, encode, STRIDE, SETTINGS._replace(steps=2))
    save_upsampler(StoredUpsampler("featup_implicit", model.settings, model), tmp_path)
    loaded = read_upsampler_folder(tmp_path)
    assert loaded.kind == "featup_implicit" and torch.equal(loaded.module(image), model(image))


def test_the_fit_ends_when_the_error_has_stopped_falling(image):
    seen = []
    flat = SETTINGS._replace(steps=10 * implicit_fit.WINDOW_STEPS, lr=0.0, views_per_step=1)
    fit_implicit(image, encode, STRIDE, flat, on_progress=seen.append)
    steps = [one.done for one in seen if one.stage == "steps"]
    assert steps[-1] < flat.steps and steps[-1] % implicit_fit.WINDOW_STEPS == 0
