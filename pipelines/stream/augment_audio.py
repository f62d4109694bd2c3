"""Random augmentations of a clip's audio that a loader worker makes: time window and splice, on int16 samples.

Mask and weight of an example are a few integers here; `device_audio` makes the arrays of a batch from them.

Source: reference 1.4. Differs from the reference: where the other clip is shorter than the splice, the splice is as
long as the other clip.
"""

from typing import NamedTuple

import numpy as np

from configs.schema import AugmentConfig
from pipelines.modalities.audio_file import AudioFile, to_int16


class Splice(NamedTuple):
    """A stretch of another clip that is cross-faded into the audio.

    Attributes:
        offset: its first sample in the audio.
        length: in samples; 0: no splice.
        fade: samples of the raised cosine at each of its ends.
        other_start: its first sample in the other clip.
    """

    offset: int
    length: int
    fade: int
    other_start: int

    def mix_into(self, samples: np.ndarray, start: int, stop: int, other: AudioFile) -> None:
        """Mix the part of the stretch between `start` and `stop` into the samples, in place.

        Args:
            samples: int16 [S].
            start, stop: the time window that is not masked.
            other: the other clip; only this part of it is decoded.

        Raises:
            ValueError, soundfile.LibsndfileError: that part cannot be decoded.
        """
        first, last = max(start, self.offset), min(stop, self.offset + self.length)
        if first >= last:
            return
        stretch = to_int16(other.read(self.other_start + first - self.offset, last - first))
        if len(stretch) < last - first:
            raise ValueError(f"{other.samples} samples, fewer than its header states")
        weight = fade_out_and_in(self.length, self.fade)[first - self.offset : last - self.offset]
        samples[first:last] = np.rint(samples[first:last] * weight + stretch * (1 - weight))


NO_SPLICE = Splice(0, 0, 0, 0)


def draw_splice(
    valid: int, other_samples: int, rng: np.random.Generator, settings: AugmentConfig, sample_rate_hz: int
) -> Splice:
    """Draw a splice.

    It lasts audio_splice_min_s to audio_splice_max_s. At each end, a raised cosine of max(a quarter of it,
    audio_splice_fade_min_s), at most half of it.

    Args:
        valid: samples of the clip's own audio.
        other_samples: samples of the other clip.
        rng: draws length and offsets.
        settings: range of the length, and the shortest fade.
        sample_rate_hz: of both.

    Returns:
        NO_SPLICE where the splice would not be shorter than the clip, or the other clip is empty.

    Source: reference 1.4, negative audio.
    """
    length_s = rng.uniform(settings.audio_splice_min_s, settings.audio_splice_max_s)
    length = min(round(length_s * sample_rate_hz), other_samples)
    if not 0 < length < valid:
        return NO_SPLICE
    offset, other_start = int(rng.integers(valid - length + 1)), int(rng.integers(other_samples - length + 1))
    fade = min(max(length // 4, round(settings.audio_splice_fade_min_s * sample_rate_hz)), length // 2)
    return Splice(offset, length, fade, other_start)


def draw_time_window(valid: int, rng: np.random.Generator, min_samples: int) -> tuple[int, int]:
    """Draw the window of the audio that is not masked out: its first sample and the one after its last.

    Its length is random, at least `min_samples`; all of the audio where that has at most `min_samples`.

    Source: reference 1.4, extra masking.
    """
    if valid <= min_samples:
        return 0, valid
    length = int(rng.integers(min_samples, valid + 1))
    start = int(rng.integers(valid - length + 1))
    return start, start + length


def fade_out_and_in(length: int, fade: int) -> np.ndarray:
    """Weight of a clip's own audio under a splice, float32 [length].

    `fade` samples from 1 to 0 along a cosine, zeros, and back, taken at the centers of the samples.
    """
    weight = np.zeros(length, dtype=np.float32)
    angle = (np.arange(fade, dtype=np.float32) + np.float32(0.5)) * np.float32(np.pi / max(fade, 1))
    weight[:fade] = np.float32(0.5) + np.float32(0.5) * np.cos(angle)
    weight[length - fade :] = weight[:fade][::-1]
    return weight
