"""Decodes one clip, and reads from its frames and its audio when they were recorded."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from tiny_media import gray

from configs.schema import DecodeConfig
from pipelines.build.decode.clip import decode_clip
from pipelines.manifest import Clip, RejectedClip

SETTINGS = DecodeConfig(short_side_px=48, min_duration_s=0.3, cpu_limit_s=20, keep_static=True)


def decode(path: Path, start_s: float = 0.0, end_s: float = 0.0, settings: DecodeConfig = SETTINGS, image: str = ""):
    return decode_clip(Clip(id="a", media=path.name, image=image, start_s=start_s, end_s=end_s), path.parent, settings)


def reason(path: Path, **arguments) -> str:
    with pytest.raises(RejectedClip) as raised:
        decode(path, **arguments)
    return raised.value.reason


def frame_numbers(decoded) -> list[int]:
    """Numbers of the frames modulo 50, read from their gray level, without the flash."""
    values = [float(frame.mean()) for frame in decoded.frames if frame.mean() < 240]
    numbers = [round((value - gray(0)) / (gray(1) - gray(0))) for value in values]
    assert all(abs(gray(number) - value) < 1.9 for number, value in zip(numbers, values, strict=True))
    return numbers


def click_s(decoded) -> float:
    """Start of the tone: the first sample above half the peak."""
    return np.argmax(np.abs(decoded.waveform) > np.abs(decoded.waveform).max() / 2) / decoded.sample_rate_hz


def flash_s(decoded) -> float:
    return decoded.frame_times_s[int(np.argmax([frame.mean() for frame in decoded.frames]))]


def ffmpeg(*arguments, **options) -> None:
    import imageio_ffmpeg

    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *arguments], check=True, **options)


def events_s(decoded) -> tuple[list[float], list[float]]:
    """Times at which a white frame follows a gray one, and at which a tone follows 0.1 s without one."""
    is_white = np.array([frame.mean() > 240 for frame in decoded.frames])
    flashes = np.flatnonzero(is_white & ~np.roll(is_white, 1))
    loud = np.flatnonzero(np.abs(decoded.waveform) > 0.3) / decoded.sample_rate_hz
    clicks = loud[np.diff(loud, prepend=-1.0) > 0.1]
    return [decoded.frame_times_s[at] for at in flashes], clicks.tolist()


def assert_in_step(decoded, expected_s) -> None:
    """Flashes and clicks at the same, expected times, within 0.08 s."""
    flashes_s, clicks_s = events_s(decoded)
    assert flashes_s == pytest.approx(expected_s, abs=0.08) and clicks_s == pytest.approx(expected_s, abs=0.08)
