"""Synthesize the sound of a class: its shape sets the timbre; its color the pitch band, rhythm and glide.

Pitch, rhythm, phase, note levels, a silent gap, background noise and loudness are sampled anew for every sound.
Limits: one source at a time, which repeats one note; 16 kHz mono.
"""

import numpy as np

from pipelines.toy_world.scene import CLASSES, SHAPES

SAMPLE_RATE_HZ = 16000

# color -> pitch of the fundamental in Hz, notes per second, glide within a note in octaves
_MELODIES = {
    "red": (165.0, 2.2, 0.0),
    "yellow": (250.0, 5.0, 0.3),
    "green": (380.0, 3.2, -0.3),
    "cyan": (575.0, 6.5, 0.0),
    "blue": (870.0, 2.5, 0.3),
    "pink": (1320.0, 4.2, -0.3),
}

_PITCH_JITTER = 0.07
_RATE_JITTER = 0.12


def synthesize_sound(class_id: int, rng: np.random.Generator, duration_s: float = 2.0) -> np.ndarray:
    """Synthesize the sound of a class with background noise.

    Args:
        class_id: index into scene.CLASSES.
        rng: the only source of randomness.
        duration_s: length in seconds.

    Returns:
        float32 [S], 16 kHz, peak 0.1 to 0.8.
    """
    color, shape = CLASSES[class_id].split()
    center_hz, rate_hz, glide_octaves = _MELODIES[color]
    samples = round(duration_s * SAMPLE_RATE_HZ)
    pitch_hz = center_hz * (1 + rng.uniform(-_PITCH_JITTER, _PITCH_JITTER))
    period_s = 1 / (rate_hz * (1 + rng.uniform(-_RATE_JITTER, _RATE_JITTER)))
    note = _TIMBRES[shape](pitch_hz, glide_octaves * rng.uniform(0.7, 1.3), period_s, rng)
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
        waveform *= _gap_envelope(samples, rng)
    return add_noise(waveform, rng, snr_db=rng.uniform(8, 30))


def add_noise(waveform: np.ndarray, rng: np.random.Generator, snr_db: float) -> np.ndarray:
    """Add colored noise at a ratio of mean powers in dB, then scale to a random peak of 0.1 to 0.8: float32 [S]."""
    length = -(-len(waveform) // 1000) * 1000  # without large prime factors the FFT is 10 times faster
    spectrum = np.fft.rfft(rng.standard_normal(length))
    tilt = rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum * np.maximum(np.arange(len(spectrum)), 8) ** -tilt, length)[: len(waveform)]
    noise *= np.sqrt(np.mean(waveform**2) / np.mean(noise**2) / 10 ** (snr_db / 10))
    mixed = waveform + noise
    return (mixed * (np.exp(rng.uniform(np.log(0.1), np.log(0.8))) / np.abs(mixed).max())).astype(np.float32)


def resample(waveform: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Resample by truncating or zero-padding the spectrum: float32 [round(S * to_hz / from_hz)]."""
    unit = from_hz // np.gcd(from_hz, to_hz)
    # A multiple of the unit, so that both lengths are integers, plus 50 ms of silence against wrap-around.
    padded = np.pad(waveform, (0, -len(waveform) % unit + unit * -(-from_hz // (20 * unit))))
    length = len(padded) * to_hz // from_hz
    spectrum = np.fft.rfft(padded)
    bins = min(len(spectrum), length // 2 + 1)
    resampled = np.fft.irfft(spectrum[:bins], length) * (length / len(padded))
    return resampled[: round(len(waveform) * to_hz / from_hz)].astype(np.float32)


def _tone(pitch_hz: float, glide_octaves: float, duration_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Times in seconds, and at each the phase in radians of a tone whose pitch glides by `glide_octaves` in all."""
    t_s = np.arange(max(round(duration_s * SAMPLE_RATE_HZ), 160)) / SAMPLE_RATE_HZ
    frequency_hz = pitch_hz * 2 ** (glide_octaves * (t_s / t_s[-1] - 0.5))
    return t_s, 2 * np.pi * np.cumsum(frequency_hz) / SAMPLE_RATE_HZ


def _bell(pitch_hz: float, glide: float, period_s: float, rng: np.random.Generator) -> np.ndarray:
    """Inharmonic partials that decay slowly and overlap the next notes."""
    t_s, phase = _tone(pitch_hz, glide / 2, min(0.9, 2 * period_s))
    partials = ((1.0, 1.0, 2.5), (2.76, 0.7, 4.0), (5.4, 0.45, 6.5), (8.93, 0.25, 9.0))
    tones = (
        a * rng.uniform(0.7, 1.3) * np.exp(-d * t_s) * np.sin(r * phase) for r, a, d in partials if r * pitch_hz < 7000
    )
    return sum(tones, start=np.zeros(len(t_s)))


def _buzz(pitch_hz: float, glide: float, period_s: float, rng: np.random.Generator) -> np.ndarray:
    """Odd harmonics with tremolo, sustained for most of the note."""
    t_s, phase = _tone(pitch_hz, glide, 0.75 * period_s)
    tone = sum(np.sin(n * phase) / n for n in range(1, 18, 2) if n * pitch_hz < 7000)
    tremolo = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(18, 26) * t_s)
    return tone * tremolo * np.minimum(1, t_s / 0.01)


def _pluck(pitch_hz: float, glide: float, period_s: float, rng: np.random.Generator) -> np.ndarray:
    """All harmonics, the higher ones decaying faster, after a click."""
    t_s, phase = _tone(pitch_hz, glide, min(0.3, 0.9 * period_s))
    strength = rng.uniform(0.6, 0.9)
    tone = sum(
        strength**n * np.exp(-(6 + 2.5 * n) * t_s) * np.sin(n * phase) for n in range(1, 11) if n * pitch_hz < 7000
    )
    return tone + 0.5 * rng.standard_normal(len(t_s)) * np.exp(-250 * t_s)


def _whistle(pitch_hz: float, glide: float, period_s: float, rng: np.random.Generator) -> np.ndarray:
    """A narrow band of noise two octaves up with a sine envelope, plus a little white noise."""
    t_s, phase = _tone(4 * pitch_hz, 2 * glide, 0.8 * period_s)
    knots = np.linspace(0, t_s[-1], max(4, round(t_s[-1] * 150)))
    real, imaginary = (np.interp(t_s, knots, rng.standard_normal(len(knots))) for _ in range(2))
    swell = np.sin(np.pi * t_s / t_s[-1])
    return (real * np.cos(phase) - imaginary * np.sin(phase) + 0.08 * rng.standard_normal(len(t_s))) * swell


_TIMBRES = dict(zip(SHAPES, (_bell, _buzz, _pluck, _whistle), strict=True))


def _gap_envelope(samples: int, rng: np.random.Generator) -> np.ndarray:
    """An envelope of 1 with one silent gap of 0.2 to 0.5 s and 10 ms fades."""
    length = round(min(rng.uniform(0.2, 0.5), samples / SAMPLE_RATE_HZ / 3) * SAMPLE_RATE_HZ)
    start = rng.integers(0, samples - length)
    outside = np.maximum(start - np.arange(samples), np.arange(samples) - (start + length))
    return np.clip(outside / (0.01 * SAMPLE_RATE_HZ), 0, 1)
