"""Sounds and voices of the toy world."""

from itertools import pairwise

import numpy as np
import pytest

from configs.errors import UsageError
from pipelines.toy_world.scene import COLOURS, class_id
from pipelines.toy_world.sound import SAMPLE_RATE_HZ, resample, sound, with_noise
from pipelines.toy_world.speech import SPEAKERS, say

# ---------------------------------------------------------------------------------------------- sounds


def test_every_sound_has_its_length_and_loudness_and_differs_from_the_next():
    for kind in range(24):
        rng = np.random.default_rng(kind)
        first, second = sound(kind, rng, 1.5), sound(kind, rng, 1.5)
        assert first.shape == (24000,)
        assert first.dtype == np.float32
        assert 0.09 < np.abs(first).max() < 0.81
        assert not np.array_equal(first, second)


@pytest.mark.parametrize("colour", COLOURS)
def test_the_colour_sets_the_pitch_band(colour):
    pitches_hz = dict(zip(COLOURS, (165, 250, 380, 575, 870, 1320), strict=True))
    for seed in range(4):
        power = np.abs(np.fft.rfft(sound(class_id(f"{colour} triangle"), np.random.default_rng(seed), 2.0))) ** 2
        assert np.argmax(power) / 2.0 == pytest.approx(pitches_hz[colour], rel=0.25)


def test_the_signal_to_noise_ratio_is_what_was_asked_for():
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    mixed = with_noise(tone, np.random.default_rng(0), snr_db=10).astype(float)
    gain = mixed @ tone / (tone @ tone)
    assert 10 * np.log10(np.mean((gain * tone) ** 2) / np.mean((mixed - gain * tone) ** 2)) == pytest.approx(
        10, abs=0.3
    )


@pytest.mark.parametrize(("from_hz", "to_hz"), [(16000, 44100), (22050, 16000)])
def test_resampling_keeps_a_tone(from_hz, to_hz):
    tone = {rate: np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate) for rate in (from_hz, to_hz)}
    resampled = resample(tone[from_hz], from_hz, to_hz)
    assert len(resampled) == to_hz // 2
    assert np.abs(resampled - tone[to_hz])[500:-500].max() < 0.002


# ---------------------------------------------------------------------------------------------- speech


def test_words_come_with_their_times_in_order_up_to_the_end():
    waveform, words = say("look at the red circle", "en-us+f2", rate_wpm=170)
    assert [word.text for word in words] == ["look", "at", "the", "red", "circle"]
    assert all(a.start_s < a.end_s == b.start_s for a, b in pairwise(words))
    assert words[-1].end_s == pytest.approx(len(waveform) / SAMPLE_RATE_HZ, abs=0.001)


def test_a_word_is_where_its_time_says():
    # The same beginning sounds the same, so two texts part where their third word starts (less the sounds that lean on the next one).
    first, words = say("the red circle", "en-us+m3")
    second, _ = say("the red star", "en-us+m3")
    shorter = min(len(first), len(second))
    parting_s = np.nonzero(np.abs(first[:shorter] - second[:shorter]) > 0.05)[0][0] / SAMPLE_RATE_HZ
    assert parting_s == pytest.approx(words[2].start_s, abs=0.08)


def test_what_was_said_before_changes_nothing():
    first, _ = say("a red star", "en-us+f2")
    say("a blue square", "en+m1", rate_wpm=200)
    assert np.array_equal(first, say("a red star", "en-us+f2")[0])


def test_there_are_at_least_six_voices_and_all_differ_and_faster_is_shorter():
    spoken = {name: say("a red star", voice, 170, pitch)[0] for name, (voice, pitch) in SPEAKERS.items()}
    assert len({waveform.tobytes() for waveform in spoken.values()}) == len(SPEAKERS) >= 6
    assert all(np.abs(waveform).max() > 0.1 for waveform in spoken.values())
    assert len(say("a red star", "en-us", 220)[0]) < 0.8 * len(say("a red star", "en-us", 150)[0])


def test_an_unknown_voice_is_named():
    with pytest.raises(UsageError, match="no voice 'nobody'"):
        say("a red star", "nobody")
