"""Log-mel spectrogram, KEY.mel.npy: Kaldi's filter banks as the reference's mel encoders take them, without torch.

With stream.audio=log_mel it is read in place of the waveform, for encoders on log-mel; its augmentations are in
stream/augment_mel.py. Without them, it gives the losses of the waveform to the rounding of float16.
"""

import io

import numpy as np

from configs.schema import DecodeConfig
from pipelines.modalities.audio_file import to_int16
from pipelines.modalities.modality import (
    DecodedClip,
    Fields,
    Modality,
    StoredClip,
    TrainingContext,
    UnreadableClip,
    decoding_errors,
)
from pipelines.modalities.waveform import MIN_AUDIO_FRACTION

MEL_BINS = 128
HOP_MS, WINDOW_MS = 10, 25


class LogMel(Modality[np.ndarray]):
    """The log-mel spectrogram of the stored 16-bit samples, float16 [frames, 128].

    It has one frame for each step of 10 ms; the windows of the last two end in silence.

    Fields of an example of N steps of 10 ms, under the names of the waveform's, which it replaces: `audio`, the
    spectrogram, float16 [N, 128]; `audio_mask` bool [N], True = valid; `audio_positive_weight` float32 [N].
    """

    name = "mel"
    is_streamed = False

    @staticmethod
    def encode(decoded: DecodedClip, settings: DecodeConfig) -> dict[str, bytes]:
        """KEY.mel.npy, where decode.log_mel is set or decode.audio=log_mel."""
        if not (settings.log_mel or settings.audio == "log_mel"):
            return {}
        waveform, rate_hz, buffer = to_int16(decoded.waveform) / np.float32(32768), decoded.sample_rate_hz, io.BytesIO()
        hop, window = rate_hz * HOP_MS // 1000, rate_hz * WINDOW_MS // 1000
        steps = -(-len(waveform) // hop)
        padded = np.pad(waveform, (0, max(0, (steps - 1) * hop + window - len(waveform))))
        np.save(buffer, log_mel(padded, rate_hz).astype(np.float16), allow_pickle=False)
        return {"mel.npy": buffer.getvalue()}

    @property
    def steps(self) -> int:
        """N, the number of steps of an example."""
        return self.spec.samples // (self.spec.sample_rate_hz * HOP_MS // 1000)

    def decode(self, clip: StoredClip) -> np.ndarray:
        """The spectrogram from its start, float16 [<= N, 128].

        Raises:
            UnreadableClip: the clip has none, or it is damaged.
        """
        mel = super().decode(clip)
        with decoding_errors("bad_array", clip):
            if mel.dtype != np.float16 or mel.ndim != 2 or mel.shape[1] != MEL_BINS or not np.isfinite(mel).all():
                raise ValueError(f"{mel.dtype} {list(mel.shape)} is not a finite float16 [frames, {MEL_BINS}]")
        return mel[: self.steps]

    def check(self, value: np.ndarray, clip: StoredClip) -> None:
        """Reject a clip whose audio is shorter than MIN_AUDIO_FRACTION of the configured length."""
        if len(value) < MIN_AUDIO_FRACTION * self.steps:
            raise UnreadableClip("too_short", f"clip {clip.id} has {len(value)} frames of log-mel")

    def train(self, value: np.ndarray, context: TrainingContext) -> Fields:
        """The spectrogram, cut or padded, with a stretch of a mix partner spliced in, sometimes masked but for one
        window.
        """
        from pipelines.stream.augment_mel import STEPS_PER_S, pad_or_crop_mel, random_time_window_mel, splice_mel

        settings, rng = self.augment, context.rng
        mel, mask = pad_or_crop_mel(value, self.steps)
        positive_weight = np.ones(self.steps, dtype=np.float32)
        if settings.audio_splice_max_s:
            for other in context.mix_in(1, self.decode):
                mel, positive_weight = splice_mel(mel, mask, other, rng, settings)
        if settings.time_mask_probability and rng.random() < settings.time_mask_probability:
            mel, mask = random_time_window_mel(mel, mask, rng, round(settings.time_mask_min_s * STEPS_PER_S))
        return {"audio": mel, "audio_mask": mask, "audio_positive_weight": positive_weight}

    def evaluate(self, value: np.ndarray, _frame: int) -> Fields:
        """The spectrogram, cut or padded."""
        from pipelines.stream.augment_mel import pad_or_crop_mel

        mel, mask = pad_or_crop_mel(value, self.steps)
        return {"audio": mel, "audio_mask": mask, "audio_positive_weight": np.ones(self.steps, np.float32)}


def log_mel(waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Log-mel spectrogram of a waveform.

    Args:
        waveform: float32 [S], mono, -1 to 1.
        sample_rate_hz: its sample rate.

    Returns:
        float32 [frames, 128], one frame of 25 ms every 10 ms, natural logarithm of the energy, not normalized; no frame
        for less than 25 ms.

    Source: DenseAV's data set code (reference.md, 1.4): Hanning window, HTK compatible, no dither, mean removed.
    """
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = sample_rate_hz
    options.frame_opts.frame_shift_ms = HOP_MS
    options.frame_opts.window_type = "hanning"
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = MEL_BINS
    options.htk_compat = True
    options.use_energy = False
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(sample_rate_hz, (waveform - waveform.mean()).astype(np.float32))
    bank.input_finished()
    frames = [bank.get_frame(number) for number in range(bank.num_frames_ready)]
    return np.stack(frames) if frames else np.zeros((0, MEL_BINS), np.float32)
