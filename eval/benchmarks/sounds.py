"""Sounds of published sets, read with suspicion: what is broken in one is told with its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from configs.errors import UsageError


def read_waveform(path: Path, sample_rate_hz: int) -> np.ndarray:
    """float32 [S] in -1 to 1: the first channel, resampled where the file has another rate.

    Raises:
        UsageError: not a sound file, or an empty one.
    """
    import soundfile
    from torchaudio.functional import resample

    try:
        waveform, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UsageError(f"{path} is not a sound file: {error}") from None
    if not len(waveform):
        raise UsageError(f"{path} holds no sound")
    first = torch.from_numpy(np.ascontiguousarray(waveform[:, 0]))
    return (first if rate_hz == sample_rate_hz else resample(first, rate_hz, sample_rate_hz)).numpy()


def sound_length_s(path: Path) -> float:
    """Raises UsageError: not a sound file."""
    import soundfile

    try:
        return soundfile.info(path).duration
    except (soundfile.LibsndfileError, OSError) as error:
        raise UsageError(f"{path} is not a sound file: {error}") from None
