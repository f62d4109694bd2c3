"""Decoding of waveforms: unusual FLAC, WAV and Opus files, damaged ones, and decompression bombs."""

import numpy as np
import pytest
from odd_media import AUDIO, BAD_AUDIO, TONE, reader_of

from pipelines.stream.reader import UnreadableClip


@pytest.mark.parametrize("kind", AUDIO)
def test_unusual_audio_decodes_to_the_first_channel(tmp_path, kind):
    extension, data, tolerance = AUDIO[kind]
    waveform = reader_of(tmp_path / "a", {"flac": None, extension: data}).waveform(0)
    assert (waveform.shape, waveform.dtype) == ((8000,), np.float32)
    if tolerance:
        assert waveform == pytest.approx(TONE, abs=tolerance)
    else:
        assert abs(np.fft.rfft(waveform)).argmax() == (200 + 30) // 2


@pytest.mark.parametrize("kind", BAD_AUDIO)
def test_damaged_audio_or_audio_bomb_is_bad_audio(tmp_path, kind):
    extension, data, message = BAD_AUDIO[kind]
    with pytest.raises(UnreadableClip, match=r"^bad_audio: clip clip0000: ") as error:
        reader_of(tmp_path / "a", {"flac": None, extension: data}).waveform(0)
    assert message in str(error.value) and "\n" not in str(error.value)
