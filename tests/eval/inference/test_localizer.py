"""Localizer: maps, scores and embeddings of images, sounds and videos in any form."""

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tiny_localizer import tiny_localizer, write_image, write_sound
from tiny_media import write_video

from configs.errors import UsageError
from eval.benchmarks.localization.dataset import LocalizationExample
from eval.benchmarks.localization.heatmap_sources import ModelMaps
from eval.inference.encode import resize_for_model
from eval.inference.inputs import read_image
from eval.inference.localizer import Localizer
from eval.inference.video_reader import VideoReader
from model.hub import load_pretrained

CLIP_S = 0.64


@pytest.fixture(scope="module")
def localizer(tmp_path_factory):
    return tiny_localizer(tmp_path_factory.mktemp("tiny"))


def _benchmark_maps(localizer, image, sound, per_head=False):
    item = LocalizationExample("a", image, sound, lambda: None, "", "a", audio_window_s=CLIP_S)
    return ModelMaps(localizer.model)([item], per_head=per_head)


@pytest.mark.parametrize(("side_px", "rate_hz", "duration_s"), [(32, 16000, 0.64), (75, 44100, 0.64), (48, 16000, 0.3)])
def test_the_map_of_a_square_image_is_that_of_the_localization_benchmarks(
    localizer, tmp_path, side_px, rate_hz, duration_s
):
    image = write_image(tmp_path / "a.png", side_px, side_px)
    sound = write_sound(tmp_path / "a.wav", duration_s, rate_hz)
    result = localizer.localize(image, sound)
    torch.testing.assert_close(result.grid_maps, _benchmark_maps(localizer, image, sound), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        result.grid_maps_by_head, _benchmark_maps(localizer, image, sound, True), atol=1e-6, rtol=0
    )


def test_all_forms_of_a_pair_give_the_same_map_in_pixels(localizer, tmp_path):
    image, sound = write_image(tmp_path / "a.png", 50, 38), write_sound(tmp_path / "a.wav")
    expected = localizer.localize(image, sound)
    with Image.open(image) as opened:
        opened.load()
    pixels, (samples, rate_hz) = np.array(opened), soundfile.read(sound)
    assert expected.heatmaps.shape == (1, 38, 50) and expected.by_head.shape == (1, 2, 38, 50)
    assert expected.heatmaps.dtype == torch.float32 and not expected.heatmaps.is_inference()
    for given in (opened, pixels, torch.from_numpy(pixels).permute(2, 0, 1) / 255):
        torch.testing.assert_close(localizer.localize(given, (samples, rate_hz)).heatmaps, expected.heatmaps)


def test_an_image_keeps_its_aspect_ratio_at_the_resolution_of_training(localizer):
    assert resize_for_model(torch.zeros(3, 30, 90, dtype=torch.uint8), localizer.model).shape == (3, 32, 96)
    assert resize_for_model(torch.zeros(3, 1, 1, dtype=torch.uint8), localizer.model).shape == (3, 32, 32)


def test_the_map_of_a_long_sound_is_the_mean_over_its_windows(localizer, tmp_path):
    image = write_image(tmp_path / "a.png")
    samples = np.random.default_rng(0).uniform(-0.4, 0.4, round(2.5 * CLIP_S * 16000)).astype(np.float32)
    result = localizer.localize(image, (samples, 16000))
    cut = round(CLIP_S * 16000)
    parts = [localizer.localize(image, (samples[start : start + cut], 16000)) for start in range(0, len(samples), cut)]
    weights = torch.tensor([len(part.audio_times_s) for part in parts], dtype=torch.float32)
    expected = sum(weight * part.heatmaps for weight, part in zip(weights, parts, strict=True)) / weights.sum()
    torch.testing.assert_close(result.heatmaps, expected)
    assert result.score == pytest.approx(
        sum(float(w) * p.score for w, p in zip(weights, parts, strict=True)) / sum(weights)
    )
    assert len(result.audio_times_s) == weights.sum() and result.audio_times_s[-1] == pytest.approx(1.6, abs=0.1)


def test_scores_are_those_of_the_retrieval_benchmarks_for_every_audio_and_image(localizer, tmp_path):
    images = [write_image(tmp_path / f"{n}.png", 32, 32, seed=n) for n in range(3)]
    sounds = [write_sound(tmp_path / f"{n}.wav", seed=n) for n in range(2)]
    scores = localizer.score(images, sounds)
    frames = torch.stack([read_image(image) for image in images])
    waveforms = torch.stack([torch.from_numpy(soundfile.read(sound, dtype="float32")[0]) for sound in sounds])
    with torch.no_grad():
        audio = localizer.model.encode_audio(waveforms, torch.ones_like(waveforms, dtype=torch.bool))
        expected = localizer.model.similarity_per_head(localizer.model.encode_image(frames), audio).sum(dim=-1)
    torch.testing.assert_close(scores, expected)
    assert localizer.score(images[0], sounds[1]).shape == (1, 1)
    assert localizer.score(images[0], sounds[1]).item() == pytest.approx(localizer.localize(images[0], sounds[1]).score)
    assert localizer.score([], sounds).shape == (2, 0)


def test_embeddings_have_length_1_and_rank_like_pooled_features(localizer, tmp_path):
    images = [write_image(tmp_path / f"{n}.png", 32, 32, seed=n) for n in range(3)]
    sounds = [write_sound(tmp_path / f"{n}.wav", duration_s=(n + 1) * CLIP_S, seed=n) for n in range(2)]
    image, audio = localizer.embed_image(images), localizer.embed_audio(sounds)
    assert image.shape == (3, 16) and audio.shape == (2, 16) and localizer.embed_image([]).shape == (0, 16)
    assert image.norm(dim=1) == pytest.approx(1) and audio.norm(dim=1) == pytest.approx(1)
    with torch.no_grad():
        features = localizer.model.encode_image(torch.stack([read_image(path) for path in images]))
    pooled = torch.nn.functional.normalize(features.dense.mean(dim=(3, 4)), dim=2).flatten(1) / 2**0.5
    torch.testing.assert_close(image, pooled)


def test_a_model_of_class_tokens_is_embedded_by_them(tmp_path):
    simpool = tiny_localizer(tmp_path, "model.similarity_aggregation=simpool", "model.num_heads=1")
    image, sound = write_image(tmp_path / "a.png", 32, 32), write_sound(tmp_path / "a.wav")
    with torch.no_grad():
        cls = simpool.model.encode_image(read_image(image)[None]).cls.flatten(1)
    torch.testing.assert_close(simpool.embed_image(image), cls / cls.norm())
    assert simpool.embed_audio(sound).norm() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_changes_maps_a_little_and_returns_float32(localizer, tmp_path, dtype):
    image, sound = write_image(tmp_path / "a.png"), write_sound(tmp_path / "a.wav", rate_hz=44100)
    exact = localizer.localize(image, sound).heatmaps
    half = Localizer.from_pretrained(localizer.folder, "cpu", dtype).localize(image, sound).heatmaps
    difference = (half - exact).abs().max() / exact.abs().max()
    assert half.dtype == torch.float32 and 0 < difference < 0.1


def test_another_dtype_device_or_upsampler_is_one_line(localizer, tmp_path):
    with pytest.raises(UsageError, match=r"dtype=torch\.float64: allowed is torch\.float32"):
        Localizer.from_pretrained(localizer.folder, "cpu", torch.float64)
    with pytest.raises(ValueError, match=r"device=gpu: .*this machine has .*cpu"):
        load_pretrained(localizer.folder, "gpu")
    with pytest.raises(UsageError, match="upsampler=sinc: allowed are bilinear"):
        localizer.localize(write_image(tmp_path / "a.png"), write_sound(tmp_path / "a.wav"), upsampler="sinc")


def test_a_video_has_a_map_for_each_frame_and_the_stream_gives_the_same(localizer, tmp_path):
    video = write_video(tmp_path / "a.mp4", 1.5, fps=10, size_px=(64, 48), events_s=(0.5,))
    result = localizer.localize(video)
    assert result.heatmaps.shape == (15, 48, 64) and result.by_head.shape == (15, 2, 48, 64)
    assert result.frame_times_s == pytest.approx(np.arange(15) / 10) and result.frames[5].float().mean() > 240
    streamed = list(localizer.localize_stream(video))
    torch.testing.assert_close(torch.cat([part.heatmaps for part in streamed]), result.heatmaps)
    assert np.mean([part.score for part in streamed]) == pytest.approx(result.score)
    torch.testing.assert_close(result.at(0.75), result.heatmaps[7])
    torch.testing.assert_close(result.between(0.2, 0.4), (result.at(0.2) + result.at(0.3)) / 2)
    half = localizer.localize(video, max_fps=5, short_side_px=24)
    assert half.heatmaps.shape == (8, 24, 32)


def test_a_frame_of_a_video_has_the_map_of_its_image_with_the_sound_at_its_time(localizer, tmp_path):
    video = write_video(tmp_path / "a.mp4", CLIP_S, fps=50, size_px=(32, 32))
    result = localizer.localize(video, max_fps=50)
    step_s = 0.08  # of this model: frames 2, 6, 10, ... are on screen in the middle of a step
    still = localizer.localize(result.frames[10].permute(1, 2, 0), video)
    assert still.audio_times_s[2] == pytest.approx(result.frame_times_s[10]) == pytest.approx(2.5 * step_s)
    torch.testing.assert_close(still.at(2.5 * step_s), result.heatmaps[10], atol=1e-4, rtol=0)


def test_results_are_saved_as_videos_with_sound_and_as_pictures(localizer, tmp_path):
    video = write_video(tmp_path / "a.mp4", 0.6, fps=10, size_px=(64, 48))
    image, sound = write_image(tmp_path / "a.png"), write_sound(tmp_path / "a.wav")
    moving, still = localizer.localize(video), localizer.localize(image, sound)
    for result, name, view in ((moving, "heads.mp4", "heads"), (still, "still.mp4", "heatmap")):
        with VideoReader(result.save(tmp_path / "out" / name, view=view)) as written:
            assert written.has_audio and written.duration_s == pytest.approx(0.6, abs=0.1), name
    with Image.open(still.save(tmp_path / "beside.png", view="side_by_side")) as picture:
        assert picture.width > 2 * picture.height
    for result, name, message in (
        (moving, "a.png", r"a\.png: allowed is \.mp4$"),
        (still, "a.jpg", r"view=heads: allowed for .*a\.jpg is heatmap"),
        (next(iter(localizer.localize_stream(video))), "b.mp4", r"b\.mp4: allowed is \.png, \.jpg, \.jpeg"),
    ):
        with pytest.raises(UsageError, match=message):
            result.save(tmp_path / "none" / name, view="heads")


def test_what_cannot_be_localized_is_one_line(localizer, tmp_path):
    silent = write_video(tmp_path / "silent.mp4", 0.5, audio=False)
    sound = write_video(tmp_path / "sound.mp4", 0.5, video=False)
    (tmp_path / "text.mp4").write_text("hello")
    for path, message in (
        (silent, r"silent\.mp4 has no audio: allowed is a video with sound"),
        (sound, r"sound\.mp4 has no video"),
        (tmp_path / "text.mp4", r"text\.mp4 cannot be used"),
        (tmp_path / "missing.mp4", r"missing\.mp4"),
        (np.zeros((4, 4, 3), np.uint8), "give the path of a video, or an image and a sound"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            localizer.localize(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="has no audio"):
        list(localizer.localize_stream(silent))


def test_a_video_whose_frames_do_not_fit_into_memory_is_refused_with_the_way_out(localizer, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.inference.video.MAX_BYTES", 1e5)
    video = write_video(tmp_path / "a.mp4", 2.0, size_px=(64, 48))
    with pytest.raises(UsageError, match=r"20 frames of 2 s need .* lower max_fps=25 or short_side_px=480, or use loc"):
        localizer.localize(video)
    assert len(list(localizer.localize_stream(video))) == 20
    assert len(localizer.localize(video, max_fps=5).frames) == 10
