"""Inputs of users: all accepted forms give the same pixels and samples, any other is an error that names the reason."""

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from configs.errors import UsageError
from eval.benchmarks.io import resample_waveform
from eval.inference.inputs import as_list, read_image, read_sound

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
SAMPLES = (np.random.default_rng(1).integers(-9000, 9000, 800) / 32768).astype(np.float32)
CHW = torch.from_numpy(PIXELS).permute(2, 0, 1)


def test_every_form_of_an_image_gives_the_same_pixels(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    floats = CHW.float() / 255
    read_only = PIXELS.copy()
    read_only.flags.writeable = False
    forms = {
        "path": tmp_path / "a.png",
        "text": str(tmp_path / "a.png"),
        "PIL": Image.fromarray(PIXELS),
        "uint8 numpy": PIXELS,
        "read-only": read_only,
        "uint8 tensor": torch.from_numpy(PIXELS),
        "float tensor": floats,
        "float numpy": floats.numpy().astype(np.float64),
        "half": floats.double().half().float(),
    }
    for name, form in forms.items():
        assert torch.equal(read_image(form), CHW), name


def test_an_image_is_upright_opaque_rgb_of_8_bits_and_the_callers_object_is_unchanged(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    turned = torch.from_numpy(np.rot90(PIXELS, -1).copy()).permute(2, 0, 1)
    with Image.open(tmp_path / "turned.png") as opened:
        assert torch.equal(read_image(opened), turned) and opened.size == (9, 6)
    assert torch.equal(read_image(tmp_path / "turned.png"), turned)
    alpha = np.dstack([PIXELS, np.zeros((6, 9), np.uint8)])
    assert torch.equal(read_image(Image.fromarray(alpha, "RGBA")), CHW)
    gray = read_image(Image.fromarray(PIXELS[..., 0]))
    assert torch.equal(gray, CHW[:1].expand(3, -1, -1))
    deep = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    assert torch.equal(read_image(tmp_path / "deep.png"), gray) and torch.equal(read_image(deep), gray)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nothing.png", r"image=nothing\.png: no such file"),
        (CHW, r"image=uint8 \[3, 6, 9\]: allowed is a path, a PIL image, uint8 \[H_px, W_px, 3\] or float \[3"),
        (PIXELS / 255, r"image=float64 \[6, 9, 3\]: allowed is"),
        (PIXELS[..., 0], r"image=uint8 \[6, 9\]: allowed is"),
        (PIXELS[:0], r"image=uint8 \[0, 9, 3\]: allowed is"),
        (CHW.float(), r"has values from 0 to 255: allowed is 0 to 1|has values from \d+ to \d+: allowed is 0 to 1"),
        (CHW / 255 - 0.5, r"has values from -0\.5"),
        (torch.full((3, 2, 2), torch.nan), r"has values from nan to nan: allowed is 0 to 1"),
        (PIXELS.astype(np.int64), r"image=int64 \[6, 9, 3\]: allowed is"),
        (PIXELS.astype(object), r"image=object \[6, 9, 3\]: allowed is"),
        (None, r"image=None: allowed is"),
        ((PIXELS, 3), r"image=\(uint8 \[6, 9, 3\], 3\): allowed is"),
    ],
)
def test_another_form_of_an_image_is_an_error_that_names_the_allowed_ones(image, message):
    with pytest.raises(UsageError, match=message):
        read_image(image)


def test_a_file_that_is_no_image_or_is_cut_off_is_one_line(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    for name in ("text.png", "cut.png"):
        with pytest.raises(UsageError, match=f"{name} is not a complete image") as error:
            read_image(tmp_path / name)
        assert "\n" not in str(error.value)
    with Image.open(tmp_path / "cut.png") as opened, pytest.raises(UsageError, match="not a complete image"):
        read_image(opened)


def test_every_form_of_a_sound_gives_the_same_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", SAMPLES, 8000, subtype="PCM_16")
    stereo = np.stack([SAMPLES, -SAMPLES])
    soundfile.write(tmp_path / "stereo.flac", stereo.T, 8000)
    forms = {
        "path": tmp_path / "a.wav",
        "stereo file": str(tmp_path / "stereo.flac"),
        "mono": (SAMPLES, 8000),
        "channels": (stereo, 8000),
        "one channel": (torch.from_numpy(SAMPLES)[None], 8000),
        "float64": (SAMPLES.astype(np.float64), np.int64(8000)),
        "int16": ((SAMPLES * 32768).astype(np.int16), 8000),
    }
    for name, form in forms.items():
        samples, rate_hz = read_sound(form)
        assert (samples.dtype, rate_hz) == (np.float32, 8000), name
        assert samples == pytest.approx(SAMPLES, abs=1e-6), name


@pytest.mark.parametrize("name", ["left_is_silent.wav", "left_is_silent.flac"])
def test_the_loudest_channel_is_taken_as_in_videos(tmp_path, name):
    channels = np.stack([np.zeros_like(SAMPLES), SAMPLES])
    soundfile.write(tmp_path / name, channels.T, 8000, subtype="PCM_16")
    for form in (tmp_path / name, (channels, 8000)):
        assert read_sound(form)[0] == pytest.approx(SAMPLES, abs=1e-4)


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (SAMPLES, r"sound=float32 \[800\] has no sample rate: give \(array, sample rate in Hz\)"),
        ((SAMPLES, 16000.0), r"sound=\(float32 \[800\], 16000\.0\): allowed is a path or \(array, sample rate"),
        ((SAMPLES, 16), r"a sample rate of 16 Hz; allowed is 1000 to 768000 Hz"),
        ((16000, SAMPLES), r"sound=\(16000, float32 \[800\]\): allowed is"),
        ((SAMPLES.reshape(-1, 2), 8000), r"400 channels of 2 samples: an array of two dimensions is \[channels, samp"),
        ((SAMPLES[:0], 8000), r"sound=float32 \[0\] has no samples"),
        ((SAMPLES * 32768, 8000), r"sound=float32 \[800\]: samples of up to 8\.98e\+03"),
        ((np.where(SAMPLES > 0, np.nan, SAMPLES), 8000), r"samples are NaN or infinite"),
        ((SAMPLES.astype(np.int64), 8000), r"sound=int64 \[800\]: allowed is"),
        ((SAMPLES.astype(complex), 8000), r"sound=complex128 \[800\]: allowed is"),
        ("nothing.wav", r"sound=nothing\.wav: no usable audio"),
        (None, r"sound=None: allowed is"),
    ],
)
def test_another_form_of_a_sound_is_an_error_that_names_the_allowed_ones(sound, message):
    with pytest.raises(UsageError, match=message):
        read_sound(sound)


def test_a_text_file_named_wav_is_one_line(tmp_path):
    (tmp_path / "a.wav").write_text("hello" * 100)
    with pytest.raises(UsageError, match=r"a\.wav: no usable audio") as error:
        read_sound(tmp_path / "a.wav")
    assert "\n" not in str(error.value)


def test_a_list_is_a_list_of_inputs_and_a_pair_is_one_sound():
    assert as_list(["a.png", "b.png"]) == ["a.png", "b.png"]
    assert as_list("a.png") == ["a.png"] and as_list(("x", 8000)) == [("x", 8000)]


@pytest.mark.parametrize("rate_hz", [44100, 44101, 191_999, 192_000])
def test_any_sample_rate_is_resampled_with_little_memory(rate_hz):
    tone = np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz).astype(np.float32)
    resampled = resample_waveform(tone, rate_hz, 16000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert len(resampled) == 16000 and np.abs(resampled - expected)[200:-200].max() < 0.01
