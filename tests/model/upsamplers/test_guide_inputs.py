"""Unusual inputs of guides: the right result, or one line that says what is wrong."""

import re

import pytest
import torch

from model.upsamplers.anyup import AnyUp
from model.upsamplers.guidance import normalize_image
from model.upsamplers.jafar import Jafar
from model.upsamplers.jbu import Jbu
from model.upsamplers.naf import Naf

CHANNELS = 8
GUIDES = ("jbu", "naf", "anyup", "jafar")


def make(name, dtype=torch.float32):
    torch.manual_seed(0)
    modules = {
        "jbu": lambda: Jbu(CHANNELS),
        "naf": lambda: Naf(16),
        "anyup": lambda: AnyUp(channels=16),
        "jafar": lambda: Jafar(CHANNELS, channels=16),
    }
    return modules[name]().eval().to(dtype)


def make_image(height, width):
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)


def features_of(rows, columns, channels=CHANNELS):
    return torch.randn(1, channels, rows, columns)


def message(call):
    with pytest.raises(ValueError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", GUIDES)
def test_an_image_of_another_aspect_than_its_features_is_refused(name):
    text = message(lambda: make(name).weights(make_image(64, 96), features_of(9, 6), (64, 96)))
    assert text.startswith("image of 64 x 96 px, features of 9 x 6 cells: another aspect")


@pytest.mark.parametrize(
    ("size", "stride"), [((224, 224), 14), ((225, 239), 14), ((224, 448), 32), ((250, 330), 32), ((448, 64), 16)]
)
def test_every_grid_of_square_cells_fits_its_image(size, stride):
    image = make_image(*size)
    for grid in ((size[0] // stride, size[1] // stride), (-(-size[0] // stride), -(-size[1] // stride))):
        assert normalize_image(image, grid).shape == (1, 3, *size)


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("stride", [14, 32])
def test_strides_that_are_no_power_of_two_or_large_reach_the_size_of_the_image(name, stride):
    guide, features = make(name), features_of(64 // stride, 96 // stride)
    upsampled = guide.weights(make_image(64, 96), features, (64, 96)).apply(features)
    assert upsampled.shape == (1, CHANNELS, 64, 96) and upsampled.isfinite().all()


@pytest.mark.parametrize("name", GUIDES)
def test_a_grid_of_2_x_2_cells_is_smaller_than_every_window_and_works(name):
    guide, features = make(name), features_of(2, 2)
    upsampled = guide.weights(make_image(32, 32), features, (20, 30)).apply(features)
    assert upsampled.shape == (1, CHANNELS, 20, 30) and upsampled.isfinite().all()
    if name != "jbu":
        assert upsampled.amin() >= features.amin() - 1e-5 and upsampled.amax() <= features.amax() + 1e-5


@pytest.mark.parametrize("name", GUIDES)
def test_one_cell_is_spread_over_the_image_or_refused(name):
    guide, features = make(name), features_of(1, 1)
    if name in ("jbu", "anyup"):
        text = message(lambda: guide.weights(make_image(16, 16), features, (16, 16)))
        assert re.match("features of 1 x 1 cells: (the stack|AnyUp) needs 2 x 2 and more", text)
    else:
        upsampled = guide.weights(make_image(16, 16), features, (16, 16)).apply(features)
        assert torch.allclose(upsampled, features.expand_as(upsampled), atol=1e-6)


@pytest.mark.parametrize("name", GUIDES)
def test_zero_features_stay_zero_and_have_finite_gradients(name):
    guide, features = make(name), torch.zeros(1, CHANNELS, 3, 4, requires_grad=True)
    image = make_image(48, 64)
    upsampled = guide.weights(image, features, (24, 32)).apply_maps(features)
    assert not upsampled.any()
    (gradient,) = torch.autograd.grad((upsampled * torch.randn_like(upsampled)).sum(), features)
    assert gradient.isfinite().all() and gradient.any()


@pytest.mark.parametrize("name", GUIDES)
def test_half_precision_agrees_with_single_precision_also_with_features_near_its_limit(name):
    image, features = make_image(96, 128), 8000 * features_of(6, 8)
    exact = make(name).weights(image, features, (24, 32)).apply(features)
    half = features.half()
    found = make(name, torch.float16).weights(image, half, (24, 32)).apply(half)
    assert found.dtype == torch.float16 and found.isfinite().all()
    assert (found.float() - exact).abs().max() <= 0.02 * exact.abs().max()


def test_half_precision_features_pass_a_stack_in_single_precision():
    jbu, features, guidance = make("jbu"), features_of(3, 4), torch.randn(1, 3, 48, 64)
    with torch.inference_mode():
        exact, found = jbu(features, guidance), jbu(features.half(), guidance)
    assert (found - exact).abs().max() <= 1e-2 * exact.abs().max()


def test_a_sharp_range_kernel_does_not_overflow_in_half_precision():
    jbu = make("jbu", torch.float16)
    with torch.no_grad():
        for stage in jbu.stages:
            stage.range_temp.fill_(9.0)
    features = features_of(3, 4).half()
    assert jbu.weights(make_image(48, 64), features).apply(features).isfinite().all()


def test_weights_of_another_encoder_are_refused():
    other, guidance = features_of(3, 4, channels=12), torch.randn(1, 3, 48, 64)
    expected = "features of 12 channels, weights of an encoder with 8"
    assert message(lambda: make("jbu")(other, guidance)) == expected
    assert message(lambda: make("jafar").weights(make_image(48, 64), other, (24, 32))) == expected


@pytest.mark.parametrize("name", GUIDES)
def test_an_output_of_one_pixel_is_a_mean_of_cells_and_one_of_none_is_refused(name):
    guide, image, features = make(name), make_image(48, 64), torch.full((1, CHANNELS, 3, 4), 2.0)
    upsampled = guide.weights(image, features, (1, 1)).apply(features)
    assert upsampled.shape == (1, CHANNELS, 1, 1) and upsampled.isfinite().all()
    if name != "jbu":
        assert torch.allclose(upsampled, torch.tensor(2.0), atol=1e-5)
    text = message(lambda: guide.weights(image, features, (0, 5)))
    assert text == "output of 0 x 5 px: allowed are 1 x 1 px and more"
