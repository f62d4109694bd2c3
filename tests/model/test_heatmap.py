"""Heatmaps: DenseAV.heatmap and the pooling of a volume."""

import pytest
import torch
from torch.nn import functional

from configs.schema import ModelConfig
from model.build import build_denseav
from model.features import AudioFeatures, ImageFeatures
from model.heatmap import pool_volume
from model.inputs import InputSpec
from model.similarity.config import SimilarityConfig

B, K, C, H, W, T = 3, 2, 6, 2, 3, 4


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        image_encoder="tiny", audio_encoder="tiny", audio_projection="linear", embed_dim=12, num_heads=2
    )
    return build_denseav(config, InputSpec(32, 0.64, 16_000)).eval()


def _features():
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.bool)
    audio = AudioFeatures(torch.randn(B, K, C, T), mask, torch.randn(B, K, C))
    return ImageFeatures(torch.randn(B, K, C, H, W), torch.randn(B, K, C)), audio


def test_pooling_worked_out_by_hand():
    # One pair, two heads, two cells, two steps.
    volume = torch.tensor([[[1.0, 2.0], [0.0, -1.0]], [[3.0, 0.0], [2.0, 2.0]]]).view(1, 2, 1, 2, 2)
    both, second = torch.tensor([[True, True]]), torch.tensor([[False, True]])
    assert pool_volume(volume, both).tolist() == [[[2.5, 2.0]]]
    assert pool_volume(volume, second).tolist() == [[[2.0, 2.0]]]
    assert pool_volume(volume, both, per_head=True).tolist() == [[[[1.5, -0.5]], [[1.5, 2.0]]]]
    assert pool_volume(volume, torch.tensor([[3.0, 1.0]])).tolist() == [[[(9 + 2) / 4, 2.0]]]


@pytest.mark.parametrize("per_head", [False, True])
def test_a_heatmap_is_the_mean_over_valid_steps_of_the_maximum_over_heads(model, per_head):
    image, audio = _features()
    maps = model.heatmap(image, audio, per_head=per_head)
    for b in range(B):
        volume = torch.einsum("kct,kchw->khwt", audio.dense[b], image.dense[b])
        volume = volume if per_head else volume.amax(dim=0)
        assert torch.allclose(maps[b], volume[..., audio.mask[b]].mean(dim=-1), atol=1e-6)


def test_step_weights_replace_the_audio_mask(model):
    image, audio = _features()
    audio = audio._replace(mask=torch.ones(B, T, dtype=torch.bool))
    best = torch.einsum("bkct,bkchw->bkhwt", audio.dense, image.dense).amax(dim=1)
    window = torch.tensor([False, True, True, False]).expand(B, -1)
    assert torch.allclose(model.heatmap(image, audio, step_weight=window), best[..., 1:3].mean(dim=-1), atol=1e-6)
    weight = torch.tensor([0.0, 0.25, 0.75, 0.0]).expand(B, -1)
    expected = 0.25 * best[..., 1] + 0.75 * best[..., 2]
    assert torch.allclose(model.heatmap(image, audio, step_weight=weight), expected, atol=1e-6)
    assert torch.allclose(model.heatmap(image, audio, step_weight=5 * weight), expected, atol=1e-6)


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_zero_weights_give_zero(model, per_head, dtype):
    image, audio = _features()
    weight = torch.zeros(B, T, dtype=dtype)
    weight[0] = 1
    maps = model.heatmap(image, audio, per_head=per_head, step_weight=weight)
    assert maps[0].abs().sum() > 0 and (maps[1:] == 0).all()


@pytest.mark.parametrize("per_head", [False, True])
def test_a_size_interpolates_the_map_of_the_grid_bilinearly(model, per_head):
    image, audio = _features()
    grid = model.heatmap(image, audio, per_head=per_head)
    maps = model.heatmap(image, audio, (7, 12), per_head=per_head)
    stacked = grid if per_head else grid[:, None]
    expected = functional.interpolate(stacked, size=(7, 12), mode="bilinear", align_corners=False)
    assert torch.equal(maps, expected if per_head else expected[:, 0])
    assert torch.equal(model.heatmap(image, audio, (H, W), per_head=per_head), grid)


def test_an_upsampler_replaces_the_bilinear_one(model):
    class Constant:
        reads_image = reads_features = True

        def weights(self, frames_seen, features, size):
            assert frames_seen is frames and torch.equal(features, image.dense.flatten(1, 2))
            self.size = size
            return self

        def apply(self, maps):
            return maps

        def apply_maps(self, maps):
            return maps.mean(dim=(2, 3), keepdim=True).expand(-1, -1, *self.size)

    image, audio = _features()
    frames = torch.zeros(B, 3, 32, 32, dtype=torch.uint8)
    maps = model.heatmap(image, audio, (5, 6), upsampler=Constant(), frames=frames)
    assert torch.allclose(maps, model.heatmap(image, audio).mean(dim=(1, 2))[:, None, None].expand(-1, 5, 6))


def test_class_tokens_enter_the_map_where_scores_use_them(model, monkeypatch):
    image, audio = _features()
    without = model.heatmap(image, audio, per_head=True)
    monkeypatch.setattr(model, "similarity_config", SimilarityConfig(use_cls=True))
    offset = (image.cls * audio.cls).sum(dim=2)[..., None, None]
    assert torch.allclose(model.heatmap(image, audio, per_head=True), without + offset, atol=1e-5)


def test_maps_of_nonneg_scores_are_not_negative(model, monkeypatch):
    image, audio = _features()
    assert (model.heatmap(image, audio, per_head=True) < 0).any()
    monkeypatch.setattr(model, "similarity_config", SimilarityConfig(nonneg=True))
    assert (model.heatmap(image, audio, per_head=True) >= 0).all()


def test_half_precision_features_give_float32_maps(model):
    image, audio = _features()
    half = model.heatmap(image._replace(dense=image.dense.bfloat16()), audio._replace(dense=audio.dense.bfloat16()))
    assert half.dtype == torch.float32 and torch.allclose(half, model.heatmap(image, audio), atol=0.2)
