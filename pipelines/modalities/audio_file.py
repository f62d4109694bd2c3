"""Decode the first channel of a FLAC, WAV or Ogg Opus file in memory, or a part of it.

The bytes decide how audio is decoded, not the extension, and what a header claims is checked before memory is
allocated. Files of 16-bit samples, which is what shards store, are decoded as int16: FLAC by miniaudio, in 0.6 of the
time that libsndfile takes, and a part of a file in proportion to its length. libsndfile (soundfile) decodes all others
as float32, and decides whether a file that does not hold what its header states is readable.
"""

import contextlib
import io

import miniaudio
import numpy as np
import soundfile

from pipelines.stated_size import with_stated_size

_MAX_CHANNELS = 32
_MAX_AMPLITUDE = 10.0  # lossy codecs overshoot 1 a little; integers stored as floats are not a waveform
_FLAC = b"fLaC"
_CONTAINERS = (_FLAC, b"RIFF", b"RF64", b"OggS")  # libsndfile would try two dozen more
_UNKNOWN_SAMPLES = (1 << 63) - 1  # what libsndfile returns for a FLAC that was written into a pipe


class AudioFile:
    """An encoded audio file.

    Args:
        data: its bytes.
        max_samples: the audio is cut to this many samples.

    Attributes:
        sample_rate_hz: sample rate.
        samples: the number of samples that the header states, at most `max_samples`.

    Raises:
        ValueError, soundfile.LibsndfileError: it cannot be decoded.
    """

    def __init__(self, data: bytes, max_samples: int) -> None:
        if data[:4] not in _CONTAINERS:
            raise ValueError("the first bytes are not those of a FLAC, WAV or Ogg file")
        data = with_stated_size(data)
        self._data, self._max_samples = data, max_samples
        self._decoded: np.ndarray | None = None
        self._sound: soundfile.SoundFile | None = None
        if data[:4] == _FLAC:
            stated = _stated_flac(data)
        else:
            self._sound = soundfile.SoundFile(io.BytesIO(data))
            stated = _stated_wav(self._sound)
        if stated is None:
            self._decode_all()
        else:
            self.sample_rate_hz, self.samples = stated[0], min(stated[1], max_samples)

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Decode `count` samples from `start` on, by default all.

        Limits: a damaged block of a FLAC is skipped, which is noticed only where the end of the file is read.

        Returns:
            int16 [count] if the file holds 16-bit samples, else float32 [count], mostly -1 to 1. Fewer samples where
            the file is shorter than its header states.

        Raises:
            ValueError, soundfile.LibsndfileError: it cannot be decoded, has no samples, NaN, or amplitudes above 10.
        """
        count = self.samples - start if count is None else count
        if self._decoded is None:
            is_flac = self._sound is None
            part = _read_flac(self._data, start, count) if is_flac else _read_wav(self._sound, start, count)
            if len(part) == count > 0:
                return part
            self._decode_all()
        assert self._decoded is not None
        return self._decoded[start : start + count]

    def _decode_all(self) -> None:
        self.sample_rate_hz, self._decoded = _decode_float(self._data, self._max_samples)
        self.samples = len(self._decoded)
        if not (self.samples and np.abs(self._decoded).max() <= _MAX_AMPLITUDE):  # also False for NaN
            raise ValueError(f"no samples, NaN, or amplitudes above {_MAX_AMPLITUDE:g}")


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """A waveform as the int16 samples that a shard stores: float samples in -1 to 1 are rounded, others clipped."""
    if waveform.dtype == np.int16:
        return waveform
    return np.clip(np.round(waveform * 32768.0), -32768, 32767).astype(np.int16)


def to_float(waveform: np.ndarray) -> np.ndarray:
    """A waveform as float32, -1 to 1."""
    return waveform / np.float32(32768) if waveform.dtype == np.int16 else waveform


def _stated_flac(data: bytes) -> tuple[int, int] | None:
    """Sample rate and number of samples of a FLAC of 16 bits; None for others and where the length is not stated."""
    flac = miniaudio.lib.ma_dr_flac_open_memory(data, len(data), miniaudio.ffi.NULL)
    if not flac:
        return None
    try:
        stated = int(flac.sampleRate), int(flac.totalPCMFrameCount)
        return stated if flac.bitsPerSample == 16 and stated[1] else None
    finally:
        miniaudio.lib.ma_dr_flac_close(flac)


def _read_flac(data: bytes, start: int, count: int) -> np.ndarray:
    flac = miniaudio.lib.ma_dr_flac_open_memory(data, len(data), miniaudio.ffi.NULL)
    try:
        samples = np.empty((count, flac.channels), np.int16)
        if start and not miniaudio.lib.ma_dr_flac_seek_to_pcm_frame(flac, start):
            return samples[:0, 0]
        out = miniaudio.ffi.from_buffer("short[]", samples)
        read = miniaudio.lib.ma_dr_flac_read_pcm_frames_s16(flac, count, out)
        return samples[:read, 0]
    finally:
        miniaudio.lib.ma_dr_flac_close(flac)


def _stated_wav(file: soundfile.SoundFile) -> tuple[int, int] | None:
    """Sample rate and number of samples of a WAV of 16-bit integers; None for other files."""
    _check_channels(file)
    return (file.samplerate, file.frames) if file.subtype == "PCM_16" and file.frames else None


def _read_wav(file: soundfile.SoundFile, start: int, count: int) -> np.ndarray:
    file.seek(start)
    return file.read(count, dtype="int16", always_2d=True)[:, 0]


def _decode_float(data: bytes, samples: int) -> tuple[int, np.ndarray]:
    """Sample rate in Hz and the first channel, float32 [<= samples]."""
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        _check_channels(file)
        if file.frames != _UNKNOWN_SAMPLES:
            return file.samplerate, file.read(samples, dtype="float32", always_2d=True)[:, 0]
        read = np.full((samples, file.channels), np.nan, dtype=np.float32)
        with contextlib.suppress(soundfile.LibsndfileError):  # it reads to the end, then fails to seek there
            file.read(out=read)
        return file.samplerate, read[: int(np.isfinite(read[:, 0]).sum()), 0]


def _check_channels(file: soundfile.SoundFile) -> None:
    if file.channels > _MAX_CHANNELS:
        raise ValueError(f"{file.channels} channels, at most {_MAX_CHANNELS} are decoded")
