"""Sounds of the toy world: the shape of a class sets its timbre, the colour its pitch band, rhythm and glide.

Every call differs: pitch, rhythm, phase, note levels, a silent gap, the background noise and the loudness are drawn anew.
Limits: one instrument at a time, one fixed note repeated; 16 kHz mono.
"""

from __future__ import annotations

import numpy as np

from pipelines.toy_world.scene import CLASSES, COLOURS, SHAPES

SAMPLE_RATE_HZ = 16000

# colour -> pitch of the fundamental, notes a second, glide within a note
_COLOUR_PITCH_HZ = dict(zip(COLOURS, (165.0, 250.0, 380.0, 575.0, 870.0, 1320.0), strict=True))
_COLOUR_RATE_HZ = dict(zip(COLOURS, (2.2, 5.0, 3.2, 6.5, 2.5, 4.2), strict=True))
_COLOUR_GLIDE_OCTAVES = dict(zip(COLOURS, (0.0, 0.3, -0.3, 0.0, 0.3, -0.3), strict=True))

_PITCH_JITTER = 0.07
_RATE_JITTER = 0.12


def sound(class_index: int, rng: np.random.Generator, duration_s: float = 2.0) -> np.ndarray:
    """The sound of a class, with background noise.

    Args:
        class_index: place in toy_scene.CLASSES.
        rng: the only source of randomness.
        duration_s: length.

    Returns:
        float32 [S], 16 kHz, peak 0.1 to 0.8.
    """
    colour, shape = CLASSES[class_index].split()
    samples = round(duration_s * SAMPLE_RATE_HZ)
    pitch_hz = _COLOUR_PITCH_HZ[colour] * (1 + rng.uniform(-_PITCH_JITTER, _PITCH_JITTER))
    period_s = 1 / (_COLOUR_RATE_HZ[colour] * (1 + rng.uniform(-_RATE_JITTER, _RATE_JITTER)))
    note = _TIMBRES[shape](pitch_hz, _COLOUR_GLIDE_OCTAVES[colour] * rng.uniform(0.7, 1.3), period_s, rng)
    note[-80:] *= np.linspace(1, 0, 80)

    waveform = np.zeros(samples + len(note))
    onset_s = rng.uniform(-period_s / 2, period_s / 2)
    while onset_s < duration_s:
        start = round((onset_s + rng.uniform(-0.04, 0.04) * period_s) * SAMPLE_RATE_HZ)
        begin, skip = max(start, 0), max(-start, 0)
        if begin < samples and skip < len(note):
            waveform[begin : begin + len(note) - skip] += note[skip:] * rng.uniform(0.6, 1.0)
        onset_s += period_s
    waveform = waveform[:samples]
    if rng.random() < 0.5:
        waveform *= _gap(samples, rng)
    return with_noise(waveform, rng, snr_db=rng.uniform(8, 30))


def with_noise(waveform: np.ndarray, rng: np.random.Generator, snr_db: float) -> np.ndarray:
    """Add coloured noise at a signal-to-noise ratio of mean powers and set a random loudness: float32, peak 0.1 to 0.8."""
    length = -(-len(waveform) // 1000) * 1000  # a length without large prime factors: 10 times faster
    spectrum = np.fft.rfft(rng.standard_normal(length))
    tilt = rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum * np.maximum(np.arange(len(spectrum)), 8) ** -tilt, length)[: len(waveform)]
    noise *= np.sqrt(np.mean(waveform**2) / np.mean(noise**2) / 10 ** (snr_db / 10))
    mixed = waveform + noise
    return (mixed * (np.exp(rng.uniform(np.log(0.1), np.log(0.8))) / np.abs(mixed).max())).astype(np.float32)


def resample(waveform: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Change the sample rate by cutting or extending the spectrum: float32 [round(S * to_hz / from_hz)]."""
    unit = from_hz // np.gcd(from_hz, to_hz)
    # Whole units, so that both lengths are integers, and 50 ms of silence, so that the end does not leak into the start.
    padded = np.pad(waveform, (0, -len(waveform) % unit + unit * -(-from_hz // (20 * unit))))
    length = len(padded) * to_hz // from_hz
    spectrum = np.fft.rfft(padded)
    bins = min(len(spectrum), length // 2 + 1)
    resampled = np.fft.irfft(spectrum[:bins], length) * (length / len(padded))
    return resampled[: round(len(waveform) * to_hz / from_hz)].astype(np.float32)


def _phase(pitch_hz: float, glide_octaves: float, t_s: np.ndarray) -> np.ndarray:
    """Running phase in radians of a tone that glides over the note."""
    frequency_hz = pitch_hz * 2 ** (glide_octaves * (t_s / t_s[-1] - 0.5))
    return 2 * np.pi * np.cumsum(frequency_hz) / SAMPLE_RATE_HZ


def _times(duration_s: float) -> np.ndarray:
    return np.arange(max(round(duration_s * SAMPLE_RATE_HZ), 160)) / SAMPLE_RATE_HZ


def _bell(pitch_hz: float, glide: float, period_s: float, rng: np.random.Generator) -> np.ndarray:
    """Inharmonic partials that ring on over the next notes."""
    t_s = _times(min(0.9, 2 * period_s))
    phase = _phase(pitch_hz, glide / 2, t_s)
    partials = ((1.0, 1.0, 2.5), (2.76, 0.7, 4.0), (5.4, 0.45, 6.5), (8.93, 0.25, 9.0))
    return sum(
        a * rng.uniform(0.7, 1.3) * np.exp(-d * t_s) * np.sin(r * phase) for r, a, d in partials if r * pitch_hz < 7000
    )


def _buzz(pitch_hz: float, glide: float, period_s: float, rng: np.random.Generator) -> np.ndarray:
    """Odd harmonics with tremolo, held for most of the note."""
    t_s = _times(0.75 * period_s)
    phase = _phase(pitch_hz, glide, t_s)
    tone = sum(np.sin(n * phase) / n for n in range(1, 18, 2) if n * pitch_hz < 7000)
    tremolo = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(18, 26) * t_s)
    return tone * tremolo * np.minimum(1, t_s / 0.01)


def _pluck(pitch_hz: float, glide: float, period_s: float, rng: np.random.Generator) -> np.ndarray:
    """All harmonics, the higher the sooner gone, after a click."""
    t_s = _times(min(0.3, 0.9 * period_s))
    phase = _phase(pitch_hz, glide, t_s)
    strength = rng.uniform(0.6, 0.9)
    tone = sum(
        strength**n * np.exp(-(6 + 2.5 * n) * t_s) * np.sin(n * phase) for n in range(1, 11) if n * pitch_hz < 7000
    )
    return tone + 0.5 * rng.standard_normal(len(t_s)) * np.exp(-250 * t_s)


def _whistle(pitch_hz: float, glide: float, period_s: float, rng: np.random.Generator) -> np.ndarray:
    """A narrow band of noise two octaves up that swells and fades, with a little hiss."""
    t_s = _times(0.8 * period_s)
    knots = np.linspace(0, t_s[-1], max(4, round(t_s[-1] * 150)))
    real, imaginary = (np.interp(t_s, knots, rng.standard_normal(len(knots))) for _ in range(2))
    phase = _phase(4 * pitch_hz, 2 * glide, t_s)
    swell = np.sin(np.pi * t_s / t_s[-1])
    return (real * np.cos(phase) - imaginary * np.sin(phase) + 0.08 * rng.standard_normal(len(t_s))) * swell


_TIMBRES = dict(zip(SHAPES, (_bell, _buzz, _pluck, _whistle), strict=True))


def _gap(samples: int, rng: np.random.Generator) -> np.ndarray:
    """A factor that is 1 but for one silent stretch of 0.2 to 0.5 s with 10 ms fades."""
    length = round(min(rng.uniform(0.2, 0.5), samples / SAMPLE_RATE_HZ / 3) * SAMPLE_RATE_HZ)
    start = rng.integers(0, samples - length)
    outside = np.maximum(start - np.arange(samples), np.arange(samples) - (start + length))
    return np.clip(outside / (0.01 * SAMPLE_RATE_HZ), 0, 1)
