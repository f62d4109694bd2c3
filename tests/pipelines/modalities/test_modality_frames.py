"""Decoding of frames: unusual JPEG and PNG files, damaged ones, and image bombs."""

import io

import numpy as np
import pytest
import simplejpeg
from odd_media import BAD_IMAGES, IMAGES, reader_of
from PIL import Image

from pipelines.stream.reader import UnreadableClip


@pytest.mark.parametrize("kind", IMAGES)
def test_unusual_images_decode_to_rgb_as_in_stock_decoders(tmp_path, kind):
    extension, data, color = IMAGES[kind]
    frame = reader_of(tmp_path / "a", {"0.jpg": None, extension: data}).frame(0, 0)
    assert (frame.shape, str(frame.dtype)) == ((3, 30, 40), "torch.uint8")
    assert np.abs(frame.numpy().astype(int) - np.reshape(color, (3, 1, 1))).max() <= 2


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_damaged_image_or_image_bomb_is_a_bad_image(tmp_path, kind):
    data, message = BAD_IMAGES[kind]
    with pytest.raises(UnreadableClip, match=r"^bad_image: clip clip0000: ") as error:
        reader_of(tmp_path / "a", {"0.jpg": data}).frame(0, 0)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_decoded_jpeg_agrees_with_pil_within_two_gray_levels(tmp_path):
    noise = np.kron(
        np.random.default_rng(0).integers(256, size=(4, 5, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)
    )
    data = simplejpeg.encode_jpeg(noise, quality=90, colorsubsampling="420")
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (
        np.abs(
            reader_of(tmp_path / "a", {"0.jpg": data}).frame(0, 0).permute(1, 2, 0).numpy().astype(int) - expected
        ).mean()
        < 2
    )
