"""Dense features as bytes: their size, their error, and features of every shape."""

import pytest
import torch

from eval.search.compression import (
    MAX_BYTES,
    Layout,
    compress_audio,
    compress_image,
    plan_layout,
    restore_audio,
    restore_image,
)
from model.features import AudioFeatures, ImageFeatures


def _features(heads=2, channels=8, grid=(4, 5), steps=6, valid=(6, 2), cls=False):
    image = ImageFeatures(torch.randn(2, heads, channels, *grid), torch.randn(2, heads, channels) if cls else None)
    mask = torch.arange(steps) < torch.tensor(valid)[:, None]
    audio = AudioFeatures(
        torch.randn(2, heads, channels, steps), mask, torch.randn(2, heads, channels) if cls else None
    )
    return image, audio


def test_the_published_architecture_takes_97776_bytes_a_clip():
    image = ImageFeatures(torch.randn(1, 2, 192, 28, 28))
    audio = AudioFeatures(torch.randn(1, 2, 192, 56), torch.ones(1, 56, dtype=torch.bool))
    layout = plan_layout(image, audio, has_cls=False)
    assert layout == Layout(2, 192, 14, 14, 56, False)
    stored = len(compress_image(image, layout)[0]) + len(compress_audio(audio, layout)[0])
    assert stored == layout.clip_bytes == 97_776


@pytest.mark.parametrize("channels, side", [(768, 37), (1024, 16), (4096, 8)])
def test_wider_and_finer_features_are_pooled_until_they_fit(channels, side):
    image = ImageFeatures(torch.randn(1, 1, channels, side, side))
    audio = AudioFeatures(torch.randn(1, 1, channels, 512), torch.ones(1, 512, dtype=torch.bool))
    layout = plan_layout(image, audio, has_cls=True)
    audio = audio._replace(cls=torch.randn(1, 1, channels))
    image = image._replace(cls=torch.randn(1, 1, channels))
    stored = len(compress_image(image, layout)[0]) + len(compress_audio(audio, layout)[0])
    assert stored == layout.clip_bytes <= MAX_BYTES


def test_a_restored_vector_differs_by_at_most_half_a_level_of_its_own_scale():
    image, audio = _features()
    layout = plan_layout(image, audio, has_cls=False)
    restored = restore_image(compress_image(image, layout), layout)
    level = image.dense.abs().amax(dim=2, keepdim=True) / 127
    assert restored.cls is None
    assert ((restored.dense - image.dense).abs() <= 0.51 * level).all()


def test_only_valid_steps_are_stored_and_short_sounds_are_padded():
    image, audio = _features(cls=True)
    layout = plan_layout(image, audio, has_cls=True)
    blobs = compress_audio(audio, layout)
    assert len(blobs[1]) < len(blobs[0])
    restored = restore_audio(blobs, layout)
    assert restored.mask.tolist() == audio.mask.tolist()
    valid = audio.mask[:, None, None].expand_as(audio.dense)
    torch.testing.assert_close(restored.dense[valid], audio.dense[valid], atol=0.02, rtol=0)
    assert not restored.dense[~valid].any()
    torch.testing.assert_close(restored.cls, audio.cls, atol=2e-3, rtol=0)


def test_a_finer_grid_is_the_mean_of_its_cells():
    image = ImageFeatures(torch.arange(28.0 * 28).reshape(1, 1, 1, 28, 28).expand(1, 1, 4, 28, 28) / 784)
    layout = Layout(1, 4, 14, 14, 8, False)
    restored = restore_image(compress_image(image, layout), layout).dense
    torch.testing.assert_close(
        restored[0, 0, 0], torch.nn.functional.avg_pool2d(image.dense[0, :, 0], 2)[0], atol=0.01, rtol=0
    )


def test_features_of_zero_and_large_ones_survive():
    image, audio = _features()
    layout = plan_layout(image, audio, has_cls=False)
    zero = ImageFeatures(image.dense * 0)
    assert not restore_image(compress_image(zero, layout), layout).dense.any()
    large = ImageFeatures(image.dense * 1e5)
    torch.testing.assert_close(
        restore_image(compress_image(large, layout), layout).dense, large.dense, rtol=0.02, atol=5e3
    )


def test_a_blob_of_another_size_is_refused():
    image, audio = _features()
    layout = plan_layout(image, audio, has_cls=False)
    with pytest.raises(ValueError, match="the index is damaged"):
        restore_image([compress_image(image, layout)[0][:-1]], layout)
