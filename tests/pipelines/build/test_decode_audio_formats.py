"""Audio files of users: WAV written through a pipe, rare containers, truncated files, and NaN or infinite samples."""

import io
import os
import warnings

import numpy as np
import pytest
import soundfile
from tiny_audio_files import (
    BY_SOUNDFILE,
    CLICK_S,
    LOSSLESS,
    LOSSY,
    PCM,
    RATE_HZ,
    STREAMED_WAVS,
    TRUNCATED_WAVS,
    WAVEFORM,
    wav,
    write_audio,
    write_picture,
    write_piped,
)
from tiny_decode import click_s, decode, reason

from configs.schema import DecodeConfig
from pipelines.manifest import RejectedClip
from pipelines.modalities.waveform import Waveform


@pytest.mark.parametrize("writer", STREAMED_WAVS)
def test_wav_from_a_pipe_has_the_samples_that_are_there(tmp_path, writer):
    (tmp_path / "a.wav").write_bytes(STREAMED_WAVS[writer])
    decoded = decode(tmp_path / "a.wav", image=write_picture(tmp_path))
    assert decoded.end_s == pytest.approx(3.0, abs=0.001)
    assert np.array_equal(decoded.waveform[:48000], np.frombuffer(PCM, "<i2").astype(np.float32) / 32768)


@pytest.mark.parametrize("kind", TRUNCATED_WAVS)
def test_truncated_wav_is_rejected_whichever_size_is_stated(tmp_path, kind):
    (tmp_path / "a.wav").write_bytes(TRUNCATED_WAVS[kind])
    assert reason(tmp_path / "a.wav", image=write_picture(tmp_path)) == "unreadable"


def test_wav_that_lost_only_chunks_after_its_samples_is_accepted(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(36 + len(PCM) + 100_000, len(PCM)))
    assert decode(tmp_path / "a.wav", image=write_picture(tmp_path)).end_s == 3.0


@pytest.mark.parametrize("ending", [*LOSSLESS, *BY_SOUNDFILE])
def test_lossless_audio_of_every_container_decodes_to_its_samples(tmp_path, ending):
    decoded = decode(write_audio(tmp_path / f"a.{ending}"), image=write_picture(tmp_path))
    assert decoded.waveform == pytest.approx(WAVEFORM, abs=1e-4)


@pytest.mark.parametrize("ending", LOSSY)
def test_lossy_audio_of_every_container_decodes_in_time(tmp_path, ending):
    decoded = decode(write_audio(tmp_path / f"a.{ending}"), image=write_picture(tmp_path))
    assert click_s(decoded) == pytest.approx(CLICK_S, abs=0.07)  # raw AAC does not state the delay of its encoder
    assert len(decoded.waveform) == pytest.approx(3 * RATE_HZ, abs=0.09 * RATE_HZ)


@pytest.mark.parametrize("ending", ["w64", "au", "caf", "aiff", "flac"])
def test_other_containers_from_a_pipe_decode_too(tmp_path, ending):
    decoded = decode(write_piped(tmp_path / f"a.{ending}"), image=write_picture(tmp_path))
    assert decoded.waveform == pytest.approx(WAVEFORM, abs=1e-4)


@pytest.mark.parametrize("ending", ["w64", "au", "caf", "aiff", "sph"])
def test_truncated_audio_of_other_containers_is_unreadable(tmp_path, ending):
    data = write_audio(tmp_path / f"a.{ending}").read_bytes()
    (tmp_path / f"a.{ending}").write_bytes(data[: len(data) // 2])
    assert reason(tmp_path / f"a.{ending}", image=write_picture(tmp_path)) == "unreadable"


def test_segment_of_audio_that_only_libsndfile_reads_is_cut_exactly(tmp_path):
    decoded = decode(write_audio(tmp_path / "a.htk"), 0.75, 2.0, image=write_picture(tmp_path))
    assert (decoded.start_s, decoded.end_s, decoded.decoder) == (0.75, 2.0, "libsndfile")
    assert click_s(decoded) == pytest.approx(0.25, abs=0.001) and decoded.decoder_version


def test_format_that_is_not_supported_is_called_so(tmp_path):
    (tmp_path / "a.avs").write_bytes(
        b"#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n#EXT-X-TARGETDURATION:5\n"
    )
    with pytest.raises(RejectedClip, match="not a supported audio or video format"):
        decode(tmp_path / "a.avs")


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_audio_with_samples_that_are_not_finite_is_rejected_without_a_warning(tmp_path, subtype, value, rate_hz):
    samples = np.tile(WAVEFORM, 3).astype(np.float64)
    samples[5000] = value
    with np.errstate(over="ignore"):
        soundfile.write(tmp_path / "a.wav", samples, rate_hz, subtype=subtype)
    with warnings.catch_warnings(action="error"):
        assert reason(tmp_path / "a.wav", image=write_picture(tmp_path)) == "not_finite"


def test_audio_over_full_scale_is_clipped_and_integers_stored_as_floats_are_rejected(tmp_path):
    soundfile.write(tmp_path / "a.wav", 3 * WAVEFORM, RATE_HZ, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", 32768 * WAVEFORM, RATE_HZ, subtype="FLOAT")
    picture = write_picture(tmp_path)
    with warnings.catch_warnings(action="error"):
        decoded = decode(tmp_path / "a.wav", image=picture)
        stored, _ = soundfile.read(io.BytesIO(Waveform.encode(decoded, DecodeConfig())["flac"]), dtype="float32")
        assert reason(tmp_path / "b.wav", image=picture) == "unreadable"
    assert stored == pytest.approx(np.clip(3 * WAVEFORM, -1, 1), abs=1e-4)


@pytest.mark.parametrize("name", ["a:b.htk", "-a.au", os.fsdecode(b"\xff.htk"), "concat:a.wav"])
def test_audio_may_have_any_name(tmp_path, name):
    path = write_audio(tmp_path / f"plain.{name.rpartition('.')[2]}").rename(tmp_path / name)
    assert click_s(decode(path, image=write_picture(tmp_path))) == pytest.approx(CLICK_S, abs=0.001)
