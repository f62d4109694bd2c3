"""Parts of audio files: the samples of the whole file, whatever holds them."""

import numpy as np
import pytest
from odd_media import AUDIO
from tiny_shards import encode_audio

from pipelines.modalities.audio_file import AudioFile, to_float, to_int16

NOISE = to_int16(np.random.default_rng(0).normal(size=60_000) / 10)


@pytest.mark.parametrize("kind", ["flac", "wav"])
def test_16_bit_files_are_decoded_to_the_integers_that_they_store(kind):
    """60000 samples are several blocks of a FLAC, so that a part starts within one."""
    file = AudioFile(encode_audio(NOISE, kind), 50_000)
    assert (file.sample_rate_hz, file.samples) == (16000, 50_000)
    whole = file.read()
    assert whole.dtype == np.int16
    assert np.array_equal(whole, NOISE[:50_000])
    for start, count in ((0, 1), (1, 4096), (4095, 2), (23_456, 20_000), (49_999, 1)):
        assert np.array_equal(file.read(start, count), whole[start : start + count])


@pytest.mark.parametrize("kind", AUDIO)
def test_part_of_an_unusual_file_is_that_of_the_whole(kind):
    _, data, _ = AUDIO[kind]
    file = AudioFile(data, 7000)
    whole = file.read()
    assert (file.sample_rate_hz, file.samples, len(whole)) == (16000, 7000, 7000)
    assert np.array_equal(AudioFile(data, 7000).read(1234, 567), whole[1234:1801])


def test_float_samples_are_rounded_and_those_beyond_16_bits_clipped():
    waveform = np.array([-1.5, -1, -0.4 / 32768, 0.6 / 32768, 0.5, 1.5], np.float32)
    assert to_int16(waveform).tolist() == [-32768, -32768, 0, 1, 16384, 32767]
    assert to_float(to_int16(waveform)).tolist() == [-1, -1, 0, 1 / 32768, 0.5, 32767 / 32768]
    assert to_float(waveform) is waveform
