"""Guides: kept weights equal direct results, maps commute with features, every weight gets a gradient."""

import pytest
import torch

from model.upsamplers import UPSAMPLERS
from model.upsamplers.anyup import AnyUp, ratio_window
from model.upsamplers.featup_stack import FeatUpStack
from model.upsamplers.guidance import normalize_image
from model.upsamplers.jafar import Jafar
from model.upsamplers.jbu import Jbu
from model.upsamplers.naf import Naf, nearest_window


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _image(height=48, width=64):
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)


def _guide(name, feature_channels):
    guides = {
        "jbu": Jbu,
        "naf": lambda: Naf(16),
        "anyup": lambda: AnyUp(channels=16),
        "jafar": lambda: Jafar(feature_channels, channels=16),
    }
    return guides.get(name, UPSAMPLERS.get(name))()


def _weights(name, image, features, size):
    return _guide(name, features.shape[1]).weights(image, features, size)


@pytest.mark.parametrize("size", [(48, 64), (21, 50), (1, 1), (96, 33)])
@pytest.mark.parametrize("name", ["jbu", "naf", "anyup", "jafar", "bilinear", "bicubic"])
def test_features_of_any_aspect_reach_any_size(name, size):
    features = torch.randn(1, 8, 6, 8)
    upsampled = _weights(name, _image(), features, size).apply(features)
    assert upsampled.shape == (1, 8, *size) and upsampled.isfinite().all()


@pytest.mark.parametrize("name", ["jbu", "anyup", "jafar", "bilinear"])
def test_a_map_is_upsampled_like_the_features_it_comes_from(name):
    features, query = torch.randn(1, 8, 6, 8), torch.randn(8)
    weights = _weights(name, _image(), features, (48, 64))
    expected = torch.einsum("bchw,c->bhw", weights.apply(features), query)
    found = weights.apply_maps(torch.einsum("bchw,c->bhw", features, query)[:, None])[:, 0]
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_map_of_naf_is_the_sum_of_a_partial_map_for_each_head():
    features, query = torch.randn(1, 8, 6, 8), torch.randn(8)
    weights = _weights("naf", _image(), features, (48, 64))
    expected = torch.einsum("bchw,c->bhw", weights.apply(features), query)
    parts = torch.einsum("bgchw,gc->bghw", features.unflatten(1, (4, 2)), query.view(4, 2))
    assert torch.allclose(weights.apply_partial_maps(parts[:, :, None])[:, 0], expected, atol=1e-5)
    with pytest.raises(ValueError, match="maps of 2 groups, weights of 4"):
        weights.apply_partial_maps(parts[:, :2, None])


@pytest.mark.parametrize("name", ["naf", "anyup", "jafar"])
def test_mixtures_are_convex_and_keep_a_constant(name):
    features = torch.randn(1, 8, 6, 8)
    weights = _weights(name, _image(), features, (30, 41))
    assert torch.allclose(weights.apply(torch.full((1, 8, 6, 8), 3.0)), torch.tensor(3.0), atol=1e-5)
    upsampled = weights.apply(features)
    low, high = features.amin(dim=(2, 3)), features.amax(dim=(2, 3))
    assert (upsampled.amin(dim=(2, 3)) >= low - 1e-5).all() and (upsampled.amax(dim=(2, 3)) <= high + 1e-5).all()


def test_the_final_mix_on_the_small_grid_equals_that_on_the_large_one():
    features, guidance = torch.randn(2, 5, 3, 4), torch.randn(2, 3, 40, 70)
    jbu = Jbu(5).eval()
    weights = jbu.guided_weights(guidance, (3, 4))
    raw = weights.apply(features)
    assert torch.allclose(jbu(features, guidance), raw + 0.1 * jbu.fixup_proj[1](raw), atol=1e-5)


@pytest.mark.parametrize("has_norm", [False, True])
def test_the_stack_of_an_encoder_normalizes_and_mixes_features_and_leaves_maps_alone(has_norm):
    features, image = 3 * torch.randn(1, 5, 3, 4) + 1, _image()
    stack = FeatUpStack(5, has_norm).eval()
    weights = stack.weights(image, features, (48, 64))
    assert torch.allclose(weights.apply(features), stack(features, normalize_image(image, (3, 4))), atol=1e-5)
    maps = torch.randn(1, 2, 3, 4)
    assert torch.equal(weights.apply_maps(maps), weights.chain.apply(maps))


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_every_weight_gets_a_finite_gradient_also_with_zero_features(scale):
    features = scale * torch.randn(1, 8, 6, 8)
    guidance = torch.randn(1, 3, 48, 64)
    modules = {"jbu": Jbu(8), "naf": Naf(16), "anyup": AnyUp(channels=16), "jafar": Jafar(8, channels=16)}
    for name, module in modules.items():
        if name == "jbu":
            upsampled = module(features + 1e-3, guidance)
        elif name == "naf":
            upsampled = module.guided_weights(guidance, (6, 8), (24, 32)).apply(features + torch.arange(8.0))
        else:
            upsampled = module.guided_weights(guidance, features, (24, 32)).apply(features + torch.arange(8.0))
        (upsampled * torch.randn_like(upsampled)).sum().backward()
        for parameter_name, parameter in module.named_parameters():
            gradient = parameter.grad
            assert gradient is not None and gradient.isfinite().all(), f"{name}.{parameter_name}"
            if scale:
                assert gradient.abs().max() > 0 or "key.bias" in parameter_name, f"{name}.{parameter_name}"


def test_our_own_anyup_does_not_depend_on_the_order_of_channels_and_the_published_one_does():
    image, features, order = _image(), torch.randn(1, 12, 6, 8), torch.randperm(12)
    for published, is_equal in ((False, True), (True, False)):
        model = AnyUp(channels=16, published_order=published)
        one, other = (model.weights(image, part, (24, 32)).values for part in (features, features[:, order]))
        assert torch.allclose(one, other, atol=1e-3) == is_equal


def test_windows_of_a_ratio_and_of_nearest_cells():
    window = ratio_window((10, 4), (20, 4), 0.1)
    assert window.rows[0][window.valid_rows[0]].tolist() == [0, 1]
    assert window.rows[10][window.valid_rows[10]].tolist() == [4, 5, 6]
    everything = ratio_window((3, 4), (5, 5), 0.0)
    assert everything.cells == 12 and everything.valid.all()
    near = nearest_window((12, 5), (24, 24), 9)
    assert near.rows[0].tolist() == list(range(9)) and near.rows[23].tolist() == list(range(3, 12))
    assert near.columns[7].tolist() == list(range(5)), "a grid smaller than the window has all of its cells"


def test_a_grid_of_one_cell_is_refused_by_the_stack():
    with pytest.raises(ValueError, match="features of 1 x 4 cells: the stack needs 2 x 2 and more"):
        Jbu().weights(_image(16, 64), torch.zeros(1, 2, 1, 4))
