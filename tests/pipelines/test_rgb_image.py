"""Images of every mode and orientation become the same upright RGB in the build, the reader and the evaluation."""

import io
import warnings
import zlib

import numpy as np
import pytest
from odd_images import IMAGES, encode, gray, is_upright, rotated
from odd_media import reader_of
from PIL import Image
from tiny_decode import decode
from tiny_media import silence_with_clicks, write_wav

from eval.benchmarks.localization.dataset import read_square_image
from eval.benchmarks.prompted_ade20k.dataset import read_frame
from pipelines.inspect.clip_preview import open_image
from pipelines.rgb_image import upright_rgb


def _in_the_build(tmp_path, data):
    (tmp_path / "image").write_bytes(data)
    write_wav(tmp_path / "a.wav", silence_with_clicks(1.0, (0.2,), 16000))
    return decode(tmp_path / "a.wav", image="image").frames[0]


@pytest.mark.parametrize("kind", IMAGES)
def test_image_of_every_mode_has_its_color_in_the_build_and_the_evaluation(tmp_path, kind):
    data, color = IMAGES[kind]
    with warnings.catch_warnings(action="error"):
        images = [
            _in_the_build(tmp_path, data),
            read_square_image(tmp_path / "image", 24).permute(1, 2, 0).numpy(),
            read_frame(tmp_path / "image", 24).permute(1, 2, 0).numpy(),
        ]
        if data.startswith(b"\x89PNG"):
            images.append(reader_of(tmp_path / "a", {"0.jpg": data}).frame(0, 0).permute(1, 2, 0).numpy())
            images.append(np.asarray(open_image(data)))
    for pixels in images:
        assert np.abs(pixels.astype(int) - np.array(color)).max() <= 2, kind


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_image_is_upright_whatever_its_exif_orientation(tmp_path, form, orientation):
    data = rotated(form, orientation)
    assert is_upright(_in_the_build(tmp_path, data))
    square = read_square_image(tmp_path / "image", 40).permute(1, 2, 0).numpy()
    assert is_upright(np.asarray(Image.fromarray(square).resize((30, 40), Image.Resampling.NEAREST)))
    if form in ("JPEG", "PNG"):
        assert is_upright(reader_of(tmp_path / "a", {"0.jpg": data}).frame(0, 0).permute(1, 2, 0).numpy())
        assert open_image(data).size == (30, 40)


def test_16_bit_gray_is_turned_upright_and_scaled():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = gray("uint16", 40000)
    with Image.open(io.BytesIO(encode(stored, "PNG", exif=exif))) as image:
        upright = upright_rgb(image)
    assert (upright.size, upright.getpixel((0, 0))) == ((30, 40), (156, 156, 156))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_damaged_exif_is_ignored(tmp_path, form):
    data = rotated(form, 6)
    damaged = data.replace(b"MM\0*", b"MM\xff\xff", 1)
    if form == "PNG":  # the checksum of the chunk
        chunk = damaged.index(b"eXIf")
        end = chunk + 4 + int.from_bytes(damaged[chunk - 4 : chunk])
        damaged = damaged[:end] + zlib.crc32(damaged[chunk:end]).to_bytes(4) + damaged[end + 4 :]
    assert damaged != data and _in_the_build(tmp_path, damaged).shape == (30, 40, 3)
    assert reader_of(tmp_path / "a", {"0.jpg": damaged}).frame(0, 0).shape == (3, 30, 40)
