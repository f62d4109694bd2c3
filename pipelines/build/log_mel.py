"""Waveform to log-mel, as the reference's mel encoders take it: Kaldi's filter banks, computed without torch (kaldi-native-fbank).

For evaluation and for runs without audio augmentation; a mel cannot be spliced or masked like a waveform, so training computes it.
"""

from __future__ import annotations

import numpy as np

MEL_BINS = 128
HOP_MS = 10


def log_mel(waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Log-mel of a whole waveform.

    Args:
        waveform: float32 [S], mono, -1..1.
        sample_rate_hz: its rate.

    Returns:
        float32 [frames, 128], one frame of 25 ms each 10 ms, natural logarithm of the energy, not normalised; no frame for less than 25 ms.

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
