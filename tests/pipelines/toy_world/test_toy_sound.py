"""Sound and speech synthesis of the toy world."""

from itertools import pairwise

import numpy as np
import pytest

from configs.errors import UsageError
from pipelines.toy_world.scene import CLASSES, COLORS
from pipelines.toy_world.sound import SAMPLE_RATE_HZ, add_noise, resample, synthesize_sound
from pipelines.toy_world.speech import SPEAKERS, synthesize_speech

# ---------------------------------------------------------------------------------------------- sounds


def test_sounds_have_the_requested_duration_and_a_bounded_peak_and_vary():
    for class_id in range(24):
        rng = np.random.default_rng(class_id)
        first, second = synthesize_sound(class_id, rng, 1.5), synthesize_sound(class_id, rng, 1.5)
        assert first.shape == (24000,)
        assert first.dtype == np.float32
        assert 0.09 < np.abs(first).max() < 0.81
        assert not np.array_equal(first, second)


@pytest.mark.parametrize("color", COLORS)
def test_the_color_sets_the_pitch_band(color):
    pitches_hz = dict(zip(COLORS, (165, 250, 380, 575, 870, 1320), strict=True))
    for seed in range(4):
        waveform = synthesize_sound(CLASSES.index(f"{color} triangle"), np.random.default_rng(seed), 2.0)
        power = np.abs(np.fft.rfft(waveform)) ** 2
        assert np.argmax(power) / 2.0 == pytest.approx(pitches_hz[color], rel=0.25)


def test_noise_has_the_requested_signal_to_noise_ratio():
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    mixed = add_noise(tone, np.random.default_rng(0), snr_db=10).astype(float)
    gain = mixed @ tone / (tone @ tone)
    assert 10 * np.log10(np.mean((gain * tone) ** 2) / np.mean((mixed - gain * tone) ** 2)) == pytest.approx(
        10, abs=0.3
    )


@pytest.mark.parametrize(("from_hz", "to_hz"), [(16000, 44100), (22050, 16000)])
def test_resampling_preserves_a_tone(from_hz, to_hz):
    tone = {rate: np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate) for rate in (from_hz, to_hz)}
    resampled = resample(tone[from_hz], from_hz, to_hz)
    assert len(resampled) == to_hz // 2
    assert np.abs(resampled - tone[to_hz])[500:-500].max() < 0.002


# ---------------------------------------------------------------------------------------------- speech


def test_word_timings_are_consecutive_and_end_with_the_waveform():
    waveform, words = synthesize_speech("look at the red circle", "en-us+f2", rate_wpm=170)
    assert [word.text for word in words] == ["look", "at", "the", "red", "circle"]
    assert all(a.start_s < a.end_s == b.start_s for a, b in pairwise(words))
    assert words[-1].end_s == pytest.approx(len(waveform) / SAMPLE_RATE_HZ, abs=0.001)


def test_word_timings_match_the_waveform():
    # Two texts with the same beginning differ from the start of their third word on, coarticulation aside.
    first, words = synthesize_speech("the red circle", "en-us+m3")
    second, _ = synthesize_speech("the red star", "en-us+m3")
    shorter = min(len(first), len(second))
    divergence_s = np.nonzero(np.abs(first[:shorter] - second[:shorter]) > 0.05)[0][0] / SAMPLE_RATE_HZ
    assert divergence_s == pytest.approx(words[2].start_s, abs=0.08)


def test_earlier_utterances_do_not_change_the_waveform():
    first, _ = synthesize_speech("a red star", "en-us+f2")
    synthesize_speech("a blue square", "en+m1", rate_wpm=200)
    assert np.array_equal(first, synthesize_speech("a red star", "en-us+f2")[0])


def test_at_least_six_voices_differ_and_a_faster_rate_shortens_speech():
    spoken = {name: synthesize_speech("a red star", voice, 170, pitch)[0] for name, (voice, pitch) in SPEAKERS.items()}
    assert len({waveform.tobytes() for waveform in spoken.values()}) == len(SPEAKERS) >= 6
    assert all(np.abs(waveform).max() > 0.1 for waveform in spoken.values())
    assert len(synthesize_speech("a red star", "en-us", 220)[0]) < 0.8 * len(
        synthesize_speech("a red star", "en-us", 150)[0]
    )


def test_an_unknown_voice_is_a_usage_error():
    with pytest.raises(UsageError, match="no voice 'nobody'"):
        synthesize_speech("a red star", "nobody")
