"""Features of a picture by an image encoder, and their colors."""

import numpy as np
import pytest
import timm
import torch

from configs.errors import UsageError
from eval.app.features import draw_features, encoder_features
from eval.app.features_tab import ENCODERS

NAME = "vit_small_patch16_224.dino"


def test_a_picture_has_28_cells_on_its_short_side_whatever_the_patch_size():
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    shapes = [
        encoder_features(name, True, picture).shape for name in ("vit_tiny_patch16_224", "vit_small_patch8_224.dino")
    ]
    assert shapes == [(192, 28, 42), (384, 28, 42)]


def test_random_weights_are_the_same_in_every_call():
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    first, second = (encoder_features("vit_tiny_patch16_224", True, picture) for _ in range(2))
    assert torch.equal(first, second)


def test_weights_that_cannot_be_downloaded_are_one_line_with_the_way_out(monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    with pytest.raises(
        UsageError, match=f"weights of {NAME} are not on this server .* Choose random weights"
    ) as raised:
        encoder_features(NAME, False, np.zeros((32, 32, 3), np.uint8))
    assert "\n" not in str(raised.value) and "not in timm's cache" in capsys.readouterr().err


def test_timm_has_pretrained_weights_for_every_encoder_of_the_page():
    assert {name for _, name in ENCODERS if name} <= set(timm.list_pretrained())


def test_regions_of_different_features_have_different_colors_in_the_shape_of_the_picture():
    features = torch.zeros(4, 6, 8)
    features[0, :, :4] = features[1, :, 4:] = 1
    drawn = np.array(draw_features(features + 0.01 * torch.rand(4, 6, 8), (30, 40)), int)
    assert drawn.shape == (576, 768, 3)
    assert np.abs(drawn[:, 100].mean(axis=0) - drawn[:, 700].mean(axis=0)).max() > 100
