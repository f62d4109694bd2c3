"""Random augmentations of a log-mel spectrogram along time, as augment_audio.py makes of waveforms: splice and window.

Spectrograms are arrays [N, 128] of natural logarithms of energies, N steps of 10 ms, with a bool mask (True = valid). A
splice cross-fades amplitudes, so energies are weighted by squares; a masked step holds LOG_SILENCE in each bin, as a
silent waveform gives.

Source: reference 1.4, carried over to spectrograms.
"""

import numpy as np

from configs.schema import AugmentConfig
from pipelines.stream.augment_audio import draw_splice, draw_time_window, fade_out_and_in

STEPS_PER_S = 100
LOG_SILENCE = float(np.log(np.finfo(np.float32).eps))


def pad_or_crop_mel(mel: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a spectrogram to `steps`, or pad it with silence at the end.

    Args:
        mel: [frames, 128].
        steps: N.

    Returns:
        (float16 [N, 128], mask [N], False in the padding).
    """
    valid = min(len(mel), steps)
    padded = np.full((steps, mel.shape[1]), LOG_SILENCE, dtype=np.float16)
    padded[:valid] = mel[:valid]
    return padded, np.arange(steps) < valid


def splice_mel(
    mel: np.ndarray, mask: np.ndarray, other: np.ndarray, rng: np.random.Generator, settings: AugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-fade a stretch of another clip into the spectrogram at a random offset, as the waveform's.

    Args:
        mel: float16 [N, 128]; its audio is its first mask.sum() steps.
        mask: [N] bool, True = valid.
        other: the other clip's spectrogram, not padded, from which a random stretch is taken.
        rng: draws length and offsets.
        settings: range of the length, and the shortest fade.

    Returns:
        (spectrogram float16 [N, 128], positive weight float32 [N]: 1 outside the stretch, fading to 0 inside, 1 in the
        padding). The spectrogram is unchanged, with weights of 1, where the stretch would not be shorter than the clip.
    """
    weight, valid = np.ones(len(mel), dtype=np.float32), int(mask.sum())
    drawn = draw_splice(valid, len(other), rng, settings, STEPS_PER_S)
    if not drawn.length:
        return mel, weight
    own, start = fade_out_and_in(drawn.length, drawn.fade), drawn.other_start
    stretch = slice(drawn.offset, drawn.offset + drawn.length)
    weight[stretch] = own
    mixed = mel.copy()
    with np.errstate(divide="ignore"):  # the logarithm of a weight of 0 is -inf: no energy
        mixed[stretch] = np.logaddexp(
            mel[stretch].astype(np.float32) + 2 * np.log(own)[:, None],
            other[start : start + drawn.length].astype(np.float32) + 2 * np.log1p(-own)[:, None],
        )
    return mixed, weight


def random_time_window_mel(
    mel: np.ndarray, mask: np.ndarray, rng: np.random.Generator, min_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Silence and mask out all audio but one random window of random length, at least `min_steps`.

    Returns:
        (spectrogram float16 [N, 128], mask [N] bool, True = valid), unchanged where the audio has at most `min_steps`.
    """
    start, stop = draw_time_window(valid := int(mask.sum()), rng, min_steps)
    if (start, stop) == (0, valid):
        return mel, mask
    window = np.zeros_like(mask)
    window[start:stop] = True
    return np.where(window[:, None], mel, np.float16(LOG_SILENCE)), window
