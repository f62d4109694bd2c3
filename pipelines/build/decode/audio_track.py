"""The audio of a clip: one channel, placed by presentation time and resampled.

`decode.channel`: `first` is the first channel, as in the reference, which is silent in recordings with a microphone on
the other one; `mix` is the mean of all; `loudest` is the first of the loudest ones, within 1 dB, over the whole clip.
"""

import numpy as np
from av import AudioFrame, AudioResampler

from pipelines.build.decode.container import Segment
from pipelines.manifest import RejectedClip

# Timestamps of consecutive audio frames may be off by rounding (1 ms in Matroska); a larger step is a gap.
MAX_JITTER_S = 0.02
_DTYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}
MAX_AMPLITUDE = 10.0  # lossy codecs and float recordings exceed 1 a little; integers as floats are not a waveform
MAX_CHANNELS = 16
AS_LOUD = 10**0.1  # 1 dB
_FULL_SCALE = {"u8": 128.0, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63, "flt": 1.0, "dbl": 1.0}


class AudioTrack:
    """Collects the decoded frames of an audio stream with time base `unit_s`, in any order; gaps become silence."""

    def __init__(self, segment: Segment, unit_s: float, channel: str = "first") -> None:
        self._segment, self._unit_s, self._channel = segment, unit_s, channel
        self._rate_hz = 0
        self._tracks = np.zeros((1, 0), dtype=np.float32)  # [channels, S]
        self._end = 0  # samples from the start of the segment

    def add(self, frame: AudioFrame) -> None:
        """Add a decoded `av.AudioFrame`.

        Raises:
            RejectedClip: the sample rate changes within the stream.
        """
        time_s = None if frame.pts is None else self._segment.clip_time_s(frame.pts, self._unit_s)
        if not self._rate_hz:
            self._rate_hz = frame.sample_rate
            channels = min(frame.layout.nb_channels, MAX_CHANNELS) if self._channel == "loudest" else 1
            samples = round(self._segment.duration_s * self._rate_hz)
            self._tracks = np.zeros((channels, samples), dtype=np.float32)
            self._end = round((time_s or 0.0) * self._rate_hz)
        if frame.sample_rate != self._rate_hz:
            raise RejectedClip(
                "unreadable", f"the sample rate changes from {self._rate_hz} Hz to {frame.sample_rate} Hz"
            )
        if time_s is not None and abs(time_s * self._rate_hz - self._end) > MAX_JITTER_S * self._rate_hz:
            self._end = round(time_s * self._rate_hz)
        begin, self._end = self._end, self._end + frame.samples
        channels, samples = self._tracks.shape
        if self._end > 0 and begin < samples:
            found = channel_samples(frame, 1 if self._channel in ("first", "auto") else MAX_CHANNELS)
            if self._channel == "mix":
                found = found.mean(axis=0, keepdims=True)
            # A stream may change its number of channels; the last one then stands for those that are missing.
            found = found[np.minimum(np.arange(channels), len(found) - 1)] if len(found) != channels else found
            self._tracks[:, max(begin, 0) : self._end] = found[:, max(-begin, 0) : samples - begin]

    @property
    def is_full(self) -> bool:
        """Whether the audio reaches the end of the segment."""
        return 0 < self._tracks.shape[1] <= self._end

    @property
    def end_s(self) -> float:
        """End of the audio in seconds from the start of the segment; 0 if there is none."""
        return self._end / self._rate_hz if self._rate_hz else 0.0

    def samples(self) -> tuple[np.ndarray, int]:
        """The collected audio, float32 [S] from the start of the segment, and its sample rate in Hz.

        Raises:
            RejectedClip: the segment has no audio, or samples that are not finite or far above full scale.
        """
        if self._end <= 0:
            raise RejectedClip(
                "no_audio", f"no audio between {self._segment.start_s:.2f} s and {self._segment.end_s:.2f} s"
            )
        return check_amplitude(self._selected()[: self._end]), self._rate_hz

    def peaks(self) -> np.ndarray:
        """Peak amplitude of each channel, float32 [channels]."""
        return np.abs(self._tracks).max(axis=1, initial=0.0)

    def waveform(self, sample_rate_hz: int) -> tuple[np.ndarray, float]:
        """Resample the collected audio.

        Returns:
            The waveform, float32 [S], -1 to 1, from the start of the segment, and its duration in seconds.

        Raises:
            RejectedClip: as `samples`.
        """
        track, rate_hz = self.samples()
        return resample(track, rate_hz, sample_rate_hz), len(track) / rate_hz

    def _selected(self) -> np.ndarray:
        return self._tracks[0] if len(self._tracks) == 1 else self._tracks[loudest_channel(energies(self._tracks))]


def energies(samples: np.ndarray) -> np.ndarray:
    """Sum of squares of each channel, float64 [channels], of samples [channels, S]."""
    return np.array([np.square(channel, dtype=np.float64).sum() for channel in samples])


def loudest_channel(energies: np.ndarray) -> int:
    """Number of the first of the loudest channels, within 1 dB."""
    return int(np.argmax(energies * AS_LOUD >= energies.max()))


def check_amplitude(samples: np.ndarray) -> np.ndarray:
    """Return one or more samples, float32 [S].

    Raises:
        RejectedClip: samples that are not finite or far above full scale.
    """
    peak = np.maximum(samples.max(), -samples.min())  # NaN if any sample is
    if not np.isfinite(peak):
        raise RejectedClip("not_finite", f"{np.count_nonzero(~np.isfinite(samples))} samples are NaN or infinite")
    if peak > MAX_AMPLITUDE:
        detail = f"samples of up to {peak:.3g}, at most {MAX_AMPLITUDE:g} (full scale is 1): integers as floats?"
        raise RejectedClip("unreadable", detail)
    return samples


def channel_samples(frame: AudioFrame, count: int) -> np.ndarray:
    """The first `count` channels, or all if there are fewer, float32 [channels, S], -1 to 1."""
    kind, channels = frame.format.name.removesuffix("p"), frame.layout.nb_channels
    packed = 1 if frame.format.is_planar else channels
    # the stubs of PyAV omit that planes support the buffer protocol
    planes = [
        np.frombuffer(plane, _DTYPES[kind], frame.samples * packed)  # type: ignore[call-overload]
        for plane in frame.planes[:count]
    ]
    samples = np.concatenate([plane.reshape(-1, packed).T[:count] for plane in planes])
    if kind == "dbl":
        with np.errstate(over="ignore"):  # what exceeds float32 becomes infinite
            return samples.astype(np.float32)
    return (samples.astype(np.float32) - (128.0 if kind == "u8" else 0.0)) / _FULL_SCALE[kind]


def resample(track: np.ndarray, rate_hz: int, target_hz: int) -> np.ndarray:
    """Resample float32 [S] by FFmpeg's resampler, whatever the ratio of the rates."""
    if rate_hz == target_hz:
        return track
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(track[None]), format="flt", layout="mono")
    frame.sample_rate = rate_hz
    resampler = AudioResampler(format="flt", layout="mono", rate=target_hz)
    parts = [part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))]
    resampled = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    samples = round(len(track) * target_hz / rate_hz)
    return np.pad(resampled[:samples], (0, max(0, samples - len(resampled))))
