"""Fixed transforms of evaluation examples."""

import numpy as np
import pytest
import torch
from tiny_images import position_image

from pipelines.stream.augment import pad_or_crop, resize_center_crop


def test_short_waveform_is_zero_padded_and_long_one_cropped():
    waveform, mask = pad_or_crop(np.full(3, 0.5, dtype=np.float32), 5)
    assert waveform.tolist() == [0.5, 0.5, 0.5, 0, 0]
    assert mask.tolist() == [True, True, True, False, False]
    waveform, mask = pad_or_crop(np.arange(7, dtype=np.float32), 5)
    assert waveform.tolist() == [0, 1, 2, 3, 4]
    assert mask.all()


def test_evaluation_takes_the_center_crop_of_the_resized_image():
    out = resize_center_crop(position_image(40, 60), 20)
    assert out.shape == (3, 20, 20)
    assert (out[0, :, 0].tolist(), out[2].unique().tolist()) == (
        resize_center_crop(position_image(40, 40), 20)[0, :, 0].tolist(),
        [7],
    )
    assert out[1].float().mean() == pytest.approx(29.5, abs=0.6)
    assert torch.equal(resize_center_crop(position_image(20, 20), 20), position_image(20, 20))
    assert torch.equal(resize_center_crop(position_image(20, 30), 20), position_image(20, 30)[:, :, 5:25])
    assert resize_center_crop(position_image(10, 12), 20).shape == (3, 20, 20)


def test_images_are_downsampled_without_aliasing():
    image = torch.randint(256, (3, 40, 40), dtype=torch.uint8)
    smooth = torch.nn.functional.interpolate(image[None].float(), (10, 10), mode="bilinear", antialias=True)[0]
    assert (resize_center_crop(image, 10).float() - smooth).abs().max() < 1.5
