"""Waveform: the mono audio of a clip as 16-bit PCM, KEY.flac or KEY.wav.

The bytes decide how audio is decoded, not its extension, and what its header claims is checked before memory is
allocated. Limits: FLAC, WAV and Ogg Opus; the first channel; nothing is resampled.
"""

import contextlib
import io

import numpy as np
import soundfile

from configs.errors import UsageError
from configs.schema import DecodeConfig
from pipelines.modalities.modality import (
    DecodedClip,
    Fields,
    Modality,
    StoredClip,
    TrainingContext,
    UnreadableClip,
    decoding_errors,
)
from pipelines.stated_size import with_stated_size

# Clips with less audio than this fraction of the configured length are not trained on (reference 1.4).
MIN_AUDIO_FRACTION = 0.04
_MAX_CHANNELS = 32
_MAX_AMPLITUDE = 10.0  # lossy codecs overshoot 1 a little; integers stored as floats are not a waveform
_CONTAINERS = (b"fLaC", b"RIFF", b"RF64", b"OggS")  # libsndfile would try two dozen more
_UNKNOWN_SAMPLES = (1 << 63) - 1  # what libsndfile returns for a FLAC that was written into a pipe


class Waveform(Modality[np.ndarray]):
    """Fields of an example: `waveform`, `audio_positive_weight` float32 [S]; `audio_mask` bool [S], True = valid."""

    name = "waveform"
    file_types = ("flac", "wav", "opus")

    @staticmethod
    def encode(decoded: DecodedClip, settings: DecodeConfig) -> dict[str, bytes]:
        """The waveform as one file of type `settings.audio_format`; nothing where decode.audio=log_mel."""
        if settings.audio == "log_mel":
            return {}
        samples, buffer = pcm16(decoded.waveform), io.BytesIO()
        soundfile.write(buffer, samples, decoded.sample_rate_hz, format=settings.audio_format.upper(), subtype="PCM_16")
        return {settings.audio_format: buffer.getvalue()}

    def is_stored(self, clip: StoredClip) -> bool:
        """Whether a clip has audio."""
        return bool(audio_extension(clip))

    def decode(self, clip: StoredClip) -> np.ndarray:
        """The audio from its start, float32 [<= S], -1 to 1: the first channel, cut to the configured length.

        Raises:
            UnreadableClip: the clip has no audio, or it does not decode.
            UsageError: its sample rate is not the configured one.
        """
        expected_hz = self.spec.sample_rate_hz
        data = clip.read(audio_extension(clip) or clip.keys.audio_key or self.file_types[0])
        with decoding_errors("bad_audio", clip):
            rate_hz, waveform = _decode_audio(data, self.spec.samples)
            if rate_hz != expected_hz:
                raise UsageError(
                    f"{clip.data_set}: clip {clip.id} has audio at {rate_hz} Hz, "
                    f"but stream.sample_rate_hz={expected_hz}: build the shards with "
                    f"decode.sample_rate_hz={expected_hz}, or resample third-party ones"
                )
            if not (len(waveform) and np.abs(waveform).max() <= _MAX_AMPLITUDE):  # also False for NaN
                raise ValueError(f"no samples, NaN, or amplitudes above {_MAX_AMPLITUDE:g}")
        return waveform

    def check(self, value: np.ndarray, clip: StoredClip) -> None:
        """Reject a clip whose audio is shorter than MIN_AUDIO_FRACTION of the configured length."""
        if len(value) < MIN_AUDIO_FRACTION * self.spec.samples:
            raise UnreadableClip("too_short", f"clip {clip.id} has {len(value)} samples")

    def train(self, value: np.ndarray, context: TrainingContext) -> Fields:
        """The audio, cut or padded, with a stretch of a mix partner spliced in, sometimes masked but for one window.

        Source: reference 1.4.
        """
        from pipelines.stream.augment import pad_or_crop, random_time_window, splice

        settings, rng, rate_hz = self.augment, context.rng, self.spec.sample_rate_hz
        waveform, mask = pad_or_crop(value, self.spec.samples)
        positive_weight = np.ones(self.spec.samples, dtype=np.float32)
        if settings.audio_splice_max_s:
            for other in context.mix_in(1, self.decode):
                waveform, positive_weight = splice(waveform, mask, other, rng, settings, rate_hz)
        if settings.time_mask_probability and rng.random() < settings.time_mask_probability:
            waveform, mask = random_time_window(waveform, mask, rng, round(settings.time_mask_min_s * rate_hz))
        return {"waveform": waveform, "audio_mask": mask, "audio_positive_weight": positive_weight}

    def evaluate(self, value: np.ndarray, _frame: int) -> Fields:
        """The audio, cut or padded."""
        from pipelines.stream.augment import pad_or_crop

        waveform, mask = pad_or_crop(value, self.spec.samples)
        return {"waveform": waveform, "audio_mask": mask, "audio_positive_weight": np.ones_like(waveform)}


def audio_extension(clip: StoredClip) -> str:
    """Extension of a clip's audio; "" where it has none."""
    key, present = clip.keys.audio_key, clip.extensions()
    return next((name for name in ([key] if key else Waveform.file_types) if name in present), "")


def pcm16(waveform: np.ndarray) -> np.ndarray:
    """A float waveform in -1 to 1 as the int16 samples that a shard stores."""
    return np.clip(np.round(waveform * 32768.0), -32768, 32767).astype(np.int16)


def _decode_audio(data: bytes, samples: int) -> tuple[int, np.ndarray]:
    """Sample rate in Hz and the first channel, float32 [<= samples]."""
    if data[:4] not in _CONTAINERS:
        raise ValueError("the first bytes are not those of a FLAC, WAV or Ogg file")
    with soundfile.SoundFile(io.BytesIO(with_stated_size(data))) as file:
        if file.channels > _MAX_CHANNELS:
            raise ValueError(f"{file.channels} channels, at most {_MAX_CHANNELS} are decoded")
        if file.frames != _UNKNOWN_SAMPLES:
            return file.samplerate, file.read(samples, dtype="float32", always_2d=True)[:, 0]
        read = np.full((samples, file.channels), np.nan, dtype=np.float32)
        with contextlib.suppress(soundfile.LibsndfileError):  # it reads to the end, then fails to seek there
            file.read(out=read)
        return file.samplerate, read[: int(np.isfinite(read[:, 0]).sum()), 0]
