"""Log-mel spectrogram, KEY.mel.npy: Kaldi's filter banks as the reference's mel encoders take them, without torch.

It is only stored, for evaluation and for training without audio augmentation: the stored spectrogram is that of the
whole waveform, before any splice or mask, so training computes its own.
"""

import io

import numpy as np

from configs.schema import DecodeConfig
from pipelines.modalities.modality import DecodedClip, Modality
from pipelines.modalities.waveform import pcm16

MEL_BINS = 128
HOP_MS = 10


class LogMel(Modality[np.ndarray]):
    """The log-mel spectrogram of the stored 16-bit samples, float16 [frames, 128]."""

    name = "mel"
    is_streamed = False

    @staticmethod
    def encode(decoded: DecodedClip, settings: DecodeConfig) -> dict[str, bytes]:
        """KEY.mel.npy, where decode.log_mel is set."""
        if not settings.log_mel:
            return {}
        waveform, buffer = pcm16(decoded.waveform).astype(np.float32) / 32768.0, io.BytesIO()
        np.save(buffer, log_mel(waveform, decoded.sample_rate_hz).astype(np.float16), allow_pickle=False)
        return {"mel.npy": buffer.getvalue()}


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
