"""Readers of evaluation data: audio as the build reads it, and images upright, with masks and boxes in that frame."""

import warnings

import numpy as np
import pytest
import soundfile
from odd_images import rotated
from PIL import Image
from tiny_audio_files import (
    BY_SOUNDFILE,
    CLICK_S,
    LOSSLESS,
    LOSSY,
    RATE_HZ,
    STREAMED_WAVS,
    TRUNCATED_WAVS,
    WAVEFORM,
    click_of,
    write_audio,
)
from tiny_prompted import write_prompted

from configs.errors import UsageError
from eval.benchmarks.io import audio_duration_s, open_image, read_waveform
from eval.benchmarks.localization.dataset import mask_region
from eval.benchmarks.prompted_ade20k.dataset import PromptedExample, read_frame, read_labels


@pytest.mark.parametrize("writer", STREAMED_WAVS)
def test_wav_from_a_pipe_has_the_samples_that_are_there(tmp_path, writer):
    (tmp_path / "a.wav").write_bytes(STREAMED_WAVS[writer])
    assert read_waveform(tmp_path / "a.wav", RATE_HZ)[:48000] == pytest.approx(WAVEFORM, abs=1e-4)
    assert audio_duration_s(tmp_path / "a.wav") == pytest.approx(3.0, abs=0.001)


@pytest.mark.parametrize("kind", TRUNCATED_WAVS)
def test_truncated_wav_is_an_error(tmp_path, kind):
    (tmp_path / "a.wav").write_bytes(TRUNCATED_WAVS[kind])
    with pytest.raises(UsageError, match=r"a\.wav is not an audio file .*truncated"):
        read_waveform(tmp_path / "a.wav", RATE_HZ)


@pytest.mark.parametrize("ending", ["flac", "au", "aiff", "caf", "w64", "sph"])
def test_truncated_audio_of_other_containers_is_an_error(tmp_path, ending):
    data = write_audio(tmp_path / f"a.{ending}").read_bytes()
    (tmp_path / f"a.{ending}").write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match=rf"a\.{ending} is not an audio file .*truncated"):
        read_waveform(tmp_path / f"a.{ending}", RATE_HZ)


@pytest.mark.parametrize("ending", [*LOSSLESS, *BY_SOUNDFILE, *LOSSY])
def test_audio_of_every_container_is_read(tmp_path, ending):
    waveform = read_waveform(write_audio(tmp_path / f"a.{ending}"), RATE_HZ)
    assert click_of(waveform) == pytest.approx(CLICK_S, abs=0.07) and waveform.dtype == np.float32
    if ending not in LOSSY:
        assert waveform == pytest.approx(WAVEFORM, abs=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_audio_that_is_not_finite_is_an_error_without_a_warning(tmp_path, value):
    samples = WAVEFORM.astype(np.float64)
    samples[5000] = value
    soundfile.write(tmp_path / "a.wav", samples, 44100, subtype="DOUBLE")
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(UsageError, match=r"a\.wav is not .* 1 samples are NaN or infinite"),
    ):
        read_waveform(tmp_path / "a.wav", RATE_HZ)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_rotated_frames_of_prompted_ade20k_and_their_annotations_are_upright(tmp_path, orientation):
    root = write_prompted(tmp_path, count=1)
    annotation = Image.new("RGB", (30, 40))
    annotation.paste((255, 200, 255), (0, 0, 15, 20))  # class of the white quarter
    annotation.save(root / "annotations/p0_seg.png")
    (root / "frames/p0.jpg").write_bytes(rotated("JPEG", orientation))
    item = PromptedExample(root / "frames/p0.jpg", root / "annotations/p0_seg.png", root / "audio/s0.wav", 1, None)
    marked = read_labels(item, 30).numpy() > 0
    white = read_frame(item.frame, 30)[0].numpy() > 192
    assert marked.any() and (marked == white).mean() > 0.97


def test_annotation_in_the_frame_of_the_stored_pixels_is_an_error(tmp_path):
    root = write_prompted(tmp_path, count=1)
    Image.new("RGB", (40, 30)).save(root / "annotations/p0_seg.png")
    (root / "frames/p0.jpg").write_bytes(rotated("JPEG", 6))
    item = PromptedExample(root / "frames/p0.jpg", root / "annotations/p0_seg.png", root / "audio/s0.wav", 1, None)
    with pytest.raises(UsageError, match=r"is 40 x 30 px, but its image .* is 30 x 40 px upright"):
        read_labels(item, 30)
    with pytest.raises(UsageError, match=r"is 40 x 30 px, but its image .* is 30 x 40: .*upright"):
        mask_region(item.annotation, item.frame, 1)


def test_mask_of_a_rotated_image_is_in_its_upright_frame(tmp_path):
    (tmp_path / "a.jpg").write_bytes(rotated("JPEG", 6))
    mask = Image.new("L", (30, 40))
    mask.paste(255, (0, 0, 15, 20))
    mask.save(tmp_path / "m.png")
    region = mask_region(tmp_path / "m.png", tmp_path / "a.jpg", 1)
    assert region[:112, :112].all() and not region[112:].any() and not region[:, 112:].any()
    (tmp_path / "r.png").write_bytes(rotated("PNG", 6))
    with open_image(tmp_path / "r.png") as opened:
        assert opened.size == (30, 40)
