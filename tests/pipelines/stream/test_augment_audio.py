"""Random augmentations of audio: values worked out by hand, frequencies, and what of a companion is decoded."""

import numpy as np
import pytest
import torch
from tiny_shards import encode_audio, tone

from configs.schema import AugmentConfig
from pipelines.modalities.audio_file import AudioFile
from pipelines.stream.augment_audio import NO_SPLICE, draw_splice, draw_time_window, fade_out_and_in
from pipelines.stream.device_audio import audio_fields
from pipelines.stream.seeding import seeded_rng

RATE_HZ = 1000


def _settings(min_s, max_s=None, fade_s=0.5):
    return AugmentConfig(audio_splice_min_s=min_s, audio_splice_max_s=max_s or min_s, audio_splice_fade_min_s=fade_s)


def _constant(value, samples):
    return AudioFile(encode_audio(np.full(samples, value, np.float32)), samples)


def test_splice_holds_the_other_clip_with_a_raised_cosine_at_both_ends():
    """1.2 s at 1 kHz: a quarter is 300 samples, the shortest fade 200."""
    own = np.full(3000, 16384, np.int16)
    splice = draw_splice(3000, 2000, seeded_rng(0), _settings(1.2, fade_s=0.2), RATE_HZ)
    splice.mix_into(own, 0, 3000, _constant(-0.5, 2000))
    weight = audio_fields(torch.from_numpy(own)[None], _spans(0, 3000, splice))["audio_positive_weight"][0].numpy()
    start = splice.offset
    stretch = weight[start : start + 1200]
    assert (np.delete(weight, np.arange(start, start + 1200)) == 1).all()
    assert (stretch[300:900] == 0).all()
    assert (stretch[:300] > 0).all()
    assert stretch[:300] == pytest.approx([(1 + np.cos(np.pi * (i + 0.5) / 300)) / 2 for i in range(300)], abs=1e-6)
    assert stretch[900:] == pytest.approx(stretch[:300][::-1], abs=1e-6)
    assert own / 32768 == pytest.approx((weight - (1 - weight)) / 2, abs=1 / 32768)


@pytest.mark.parametrize(("splice_s", "fade_samples"), [(4.0, 1000), (1.0, 500), (0.6, 300), (1.8, 500)])
def test_fade_is_a_quarter_of_the_splice_at_least_half_a_second_and_at_most_half_of_it(splice_s, fade_samples):
    splice = draw_splice(9000, 9000, seeded_rng(1), _settings(splice_s), RATE_HZ)
    assert (splice.length, splice.fade) == (1000 * splice_s, fade_samples)


def test_splices_have_all_lengths_and_offsets_within_both_clips():
    settings = _settings(0.1, 0.4, fade_s=0.05)
    splices = [draw_splice(1000, 500, seeded_rng(key), settings, RATE_HZ) for key in range(400)]
    assert 95 <= min(splice.length for splice in splices) < 110
    assert 390 < max(splice.length for splice in splices) <= 400
    assert min(splice.offset for splice in splices) < 20
    assert 980 < max(splice.offset + splice.length for splice in splices) <= 1000
    assert 490 < max(splice.other_start + splice.length for splice in splices) <= 500


def test_splice_one_sample_shorter_than_the_clip_has_two_possible_offsets():
    splices = [draw_splice(1001, 1001, seeded_rng(key), _settings(1.0), RATE_HZ) for key in range(40)]
    assert {splice.offset for splice in splices} == {0, 1}


def test_splice_not_shorter_than_the_clip_is_skipped():
    assert draw_splice(1000, 1500, seeded_rng(0), _settings(1.0), RATE_HZ) is NO_SPLICE
    assert draw_splice(1001, 1500, seeded_rng(0), _settings(1.0), RATE_HZ).length == 1000


def test_short_other_clip_makes_a_short_splice():
    assert draw_splice(5000, 300, seeded_rng(0), _settings(1.0, 4.0), RATE_HZ).length == 300
    assert draw_splice(5000, 0, seeded_rng(0), _settings(1.0, 4.0), RATE_HZ) is NO_SPLICE


@pytest.mark.parametrize("kind", ["flac", "wav"])
def test_only_the_heard_part_of_the_other_clip_is_decoded(kind, monkeypatch):
    other, reads = AudioFile(encode_audio(tone(1, 2.0), kind), 32000), []
    read = AudioFile.read
    monkeypatch.setattr(AudioFile, "read", lambda *arguments: reads.append(arguments[1:]) or read(*arguments))
    whole, masked = np.zeros(32000, np.int16), np.zeros(32000, np.int16)
    splice = draw_splice(32000, 32000, seeded_rng(3), _settings(1.0, fade_s=0.1), 16000)
    splice.mix_into(whole, 0, 32000, other)
    splice.mix_into(masked, splice.offset + 4000, splice.offset + 9000, other)
    splice.mix_into(masked, 0, splice.offset, other)
    assert reads == [(splice.other_start, 16000), (splice.other_start + 4000, 5000)]
    heard = slice(splice.offset + 4000, splice.offset + 9000)
    assert np.array_equal(masked[heard], whole[heard])
    assert not np.delete(masked, np.arange(heard.start, heard.stop)).any()


def test_time_window_has_all_lengths_and_places():
    windows = [draw_time_window(1000, seeded_rng(key), 500) for key in range(300)]
    lengths = [stop - start for start, stop in windows]
    assert 500 <= min(lengths) < 520
    assert max(lengths) > 980
    assert min(start for start, _ in windows) == 0
    assert max(start for start, _ in windows) > 350
    assert max(stop for _, stop in windows) <= 1000
    assert draw_time_window(1000, seeded_rng(0), 1000) == (0, 1000)


def _spans(start, stop, splice=NO_SPLICE):
    return torch.tensor([[start, stop, splice.offset, splice.length, splice.fade]])


def test_mask_is_true_in_the_window_and_the_weight_is_one_without_a_splice():
    samples = torch.tensor([[0, -32768, 16384, 0, 0]], dtype=torch.int16)
    fields = audio_fields(samples, _spans(1, 3))
    assert fields["audio"].tolist() == [[0, -1, 0.5, 0, 0]]
    assert fields["audio_mask"].tolist() == [[False, True, True, False, False]]
    assert fields["audio_positive_weight"].tolist() == [[1] * 5]


@pytest.mark.parametrize(("length", "fade"), [(9, 4), (8, 4), (7, 0), (1, 0), (300, 71)])
def test_weight_of_the_device_is_that_of_the_mixing_worker(length, fade):
    spans = torch.tensor([[0, 400, 50, length, fade], [0, 400, 0, length, fade], [0, 400, 400 - length, length, fade]])
    found = audio_fields(torch.zeros(3, 400, dtype=torch.int16), spans)["audio_positive_weight"]
    for row, offset in enumerate((50, 0, 400 - length)):
        expected = np.ones(400, np.float32)
        expected[offset : offset + length] = fade_out_and_in(length, fade)
        assert found[row].numpy() == pytest.approx(expected, abs=1e-6)
