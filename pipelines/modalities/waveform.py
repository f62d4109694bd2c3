"""Waveform: the mono audio of a clip as 16-bit PCM, KEY.flac or KEY.wav.

Limits: FLAC, WAV and Ogg Opus; the first channel; nothing is resampled.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from configs.errors import UsageError
from configs.schema import DecodeConfig
from pipelines.modalities.audio_file import AudioFile, to_float, to_int16
from pipelines.modalities.modality import (
    DecodedClip,
    Fields,
    Modality,
    StoredClip,
    TrainingContext,
    UnreadableClip,
    decoding_errors,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipelines.stream.augment_audio import Splice

# Clips with less audio than this fraction of the configured length are not trained on (reference 1.4).
MIN_AUDIO_FRACTION = 0.04


class Waveform(Modality[np.ndarray]):
    """Fields of an example: `samples` [S], int16 in training, float32 (-1 to 1) in evaluation; `spans` int64 [5].

    `spans` is the audio's first sample and the one after its last, and first sample, length and fade of the splice.
    """

    name = "waveform"
    file_types = ("flac", "wav", "opus")

    @staticmethod
    def encode(decoded: DecodedClip, settings: DecodeConfig) -> dict[str, bytes]:
        """The waveform as one file of type `settings.audio_format`; nothing where decode.audio=log_mel."""
        if settings.audio == "log_mel":
            return {}
        samples, buffer = to_int16(decoded.waveform), io.BytesIO()
        soundfile.write(buffer, samples, decoded.sample_rate_hz, format=settings.audio_format.upper(), subtype="PCM_16")
        return {settings.audio_format: buffer.getvalue()}

    def is_stored(self, clip: StoredClip) -> bool:
        """Whether a clip has audio."""
        return bool(audio_extension(clip))

    def decode(self, clip: StoredClip) -> np.ndarray:
        """The audio from its start, [<= S]: the first channel, cut to the configured length, as `AudioFile.read` gives.

        Raises:
            UnreadableClip: the clip has no audio, or it does not decode.
            UsageError: its sample rate is not the configured one.
        """
        file = self._open(clip)
        with decoding_errors("bad_audio", clip):
            return file.read()

    def check(self, value: np.ndarray, clip: StoredClip) -> None:
        """Reject a clip whose audio is shorter than MIN_AUDIO_FRACTION of the configured length."""
        if len(value) < MIN_AUDIO_FRACTION * self.spec.samples:
            raise UnreadableClip("too_short", f"clip {clip.id} has {len(value)} samples")

    def train(self, value: np.ndarray, context: TrainingContext) -> Fields:
        """The audio, cut or padded, with a stretch of a mix partner spliced in, sometimes masked but for one window.

        Of the mix partner, only the part that is heard is decoded.

        Source: reference 1.4.
        """
        from pipelines.stream.augment_audio import NO_SPLICE, draw_splice, draw_time_window

        settings, rng, rate_hz = self.augment, context.rng, self.spec.sample_rate_hz
        valid = len(value)
        start, stop = 0, valid
        if settings.time_mask_probability and rng.random() < settings.time_mask_probability:
            start, stop = draw_time_window(valid, rng, round(settings.time_mask_min_s * rate_hz))
        samples = np.zeros(self.spec.samples, np.int16)
        samples[start:stop] = to_int16(value[start:stop])

        def mix_in(partner: StoredClip) -> Splice:
            file = self._open(partner)
            splice = draw_splice(valid, file.samples, rng, settings, rate_hz)
            with decoding_errors("bad_audio", partner):
                splice.mix_into(samples, start, stop, file)
            return splice

        splices = context.mix_in(1, mix_in) if settings.audio_splice_max_s else []
        splice = splices[0] if splices else NO_SPLICE
        return {"samples": samples, "spans": np.array((start, stop, splice.offset, splice.length, splice.fade))}

    def evaluate(self, value: np.ndarray, _frame: int) -> Fields:
        """The audio, cut or padded."""
        from pipelines.stream.augment import pad_or_crop

        waveform, mask = pad_or_crop(to_float(value), self.spec.samples)
        return {"samples": waveform, "spans": np.array((0, int(mask.sum()), 0, 0, 0))}

    @staticmethod
    def to_batch(fields: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """The waveform, its mask and its positive weight, computed on the device."""
        from pipelines.stream.device import to_device
        from pipelines.stream.device_audio import audio_fields

        return audio_fields(to_device(fields["samples"], device), to_device(fields["spans"], device))

    def _open(self, clip: StoredClip) -> AudioFile:
        expected_hz = self.spec.sample_rate_hz
        data = clip.read(audio_extension(clip) or clip.keys.audio_key or self.file_types[0])
        with decoding_errors("bad_audio", clip):
            file = AudioFile(data, self.spec.samples)
        if file.sample_rate_hz != expected_hz:
            raise UsageError(
                f"{clip.data_set}: clip {clip.id} has audio at {file.sample_rate_hz} Hz, "
                f"but stream.sample_rate_hz={expected_hz}: build the shards with "
                f"decode.sample_rate_hz={expected_hz}, or resample third-party ones"
            )
        return file


def audio_extension(clip: StoredClip) -> str:
    """Extension of a clip's audio; "" where it has none."""
    key, present = clip.keys.audio_key, clip.extensions()
    return next((name for name in ([key] if key else Waveform.file_types) if name in present), "")
