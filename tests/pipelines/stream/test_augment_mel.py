"""Augmentations of a log-mel spectrogram: values worked out by hand, and agreement with waveform augmentation."""

import io

import numpy as np
import pytest
from tiny_mel_shards import mel_npy

from configs.schema import AugmentConfig
from pipelines.modalities.log_mel import log_mel
from pipelines.stream.augment_audio import draw_splice, fade_out_and_in
from pipelines.stream.augment_mel import LOG_SILENCE, pad_or_crop_mel, random_time_window_mel, splice_mel

SETTINGS = AugmentConfig(audio_splice_min_s=0.5, audio_splice_max_s=1.0, audio_splice_fade_min_s=0.1)
RATE_HZ = 16_000


def _noise(samples: int, level: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, samples).astype(np.float32)


def _mel(waveform: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    return pad_or_crop_mel(np.load(io.BytesIO(mel_npy(waveform))), steps)


def test_padding_is_silence_and_the_mask_covers_the_audio_to_its_last_step():
    mel, mask = _mel(_noise(8000, 0.1, 0), 60)  # 0.5 s: 50 steps
    assert mel.shape == (60, 128) and mel.dtype == np.float16
    assert mask.tolist() == [True] * 50 + [False] * 10
    assert (mel[50:] == np.float16(LOG_SILENCE)).all() and (mel[:50].mean(axis=1) > -7).all()
    cut, mask = _mel(_noise(8000, 0.1, 0), 30)
    assert mask.all() and (cut == mel[:30]).all()
    silence, mask = pad_or_crop_mel(np.zeros((0, 128), np.float16), 5)
    assert not mask.any() and (silence == np.float16(LOG_SILENCE)).all()


def test_silence_is_what_a_silent_waveform_gives():
    assert np.allclose(log_mel(np.zeros(RATE_HZ, np.float32), RATE_HZ), LOG_SILENCE, atol=1e-5)


def test_a_splice_holds_the_other_clip_inside_and_weighted_energies_in_its_fades():
    mel, mask = np.full((200, 128), -2, np.float16), np.arange(200) < 150
    mixed, weight = splice_mel(mel, mask, np.full((180, 128), -4, np.float16), np.random.default_rng(0), SETTINGS)
    inside, faded = weight == 0, (weight > 0) & (weight < 1)
    assert inside.any() and faded.any() and (weight[150:] == 1).all()
    assert 50 <= (weight < 1).sum() <= 100
    assert (mixed[weight == 1] == -2).all() and (mixed[inside] == -4).all()
    expected = np.log(weight[faded] ** 2 * np.exp(-2) + (1 - weight[faded]) ** 2 * np.exp(-4))
    assert np.allclose(mixed[faded], expected[:, None], atol=2e-3)
    assert (mel == -2).all(), "the input is not changed"


def test_a_splice_longer_than_the_clip_changes_nothing():
    mel, mask = np.zeros((60, 128), np.float16), np.arange(60) < 40
    mixed, weight = splice_mel(mel, mask, np.ones((100, 128), np.float16), np.random.default_rng(0), SETTINGS)
    assert (mixed == mel).all() and (weight == 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_time_window_is_the_only_audio_that_is_left(seed):
    mel, mask = np.zeros((100, 128), np.float16), np.arange(100) < 80
    windowed, window = random_time_window_mel(mel, mask, np.random.default_rng(seed), 30)
    valid = np.flatnonzero(window)
    assert 30 <= len(valid) <= 80 and valid[-1] < 80 and np.all(np.diff(valid) == 1)
    assert (windowed[window] == 0).all() and (windowed[~window] == np.float16(LOG_SILENCE)).all()
    same, unchanged = random_time_window_mel(mel, mask, np.random.default_rng(seed), 80)
    assert same is mel and unchanged is mask


def test_a_splice_of_the_spectrogram_agrees_with_the_spectrogram_of_a_spliced_waveform():
    """The same draws: the levels are equal outside the fades, and about equal inside."""
    own, other, steps = _noise(48_000, 0.1, 1), _noise(48_000, 0.01, 2), 300
    drawn = draw_splice(48_000, 48_000, np.random.default_rng(3), SETTINGS, RATE_HZ)
    weight, stretch = fade_out_and_in(drawn.length, drawn.fade), slice(drawn.offset, drawn.offset + drawn.length)
    waveform = own.copy()
    waveform[stretch] = own[stretch] * weight + other[drawn.other_start :][: drawn.length] * (1 - weight)
    (mel, mask), (other_mel, _) = _mel(own, steps), _mel(other, steps)
    mixed, step_weight = splice_mel(mel, mask, other_mel, np.random.default_rng(3), SETTINGS)
    expected, _ = _mel(waveform, steps)
    assert abs((weight < 1).sum() / 160 - (step_weight < 1).sum()) < 3
    levels = np.abs(mixed.astype(np.float32).mean(axis=1) - expected.astype(np.float32).mean(axis=1))
    assert np.median(levels[step_weight < 1]) < 0.5 and levels[step_weight == 1].max() < 1
