"""Writes small real videos that encode time: frame n is gray of value 20 + 4 (n mod 50).

A flash is a white frame, a click is a short tone.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

GRAY_0, GRAY_STEP, GRAYS = 20, 4, 50


def gray(number: int) -> int:
    return GRAY_0 + GRAY_STEP * (number % GRAYS)


def silence_with_clicks(duration_s: float, clicks_s: tuple[float, ...], rate_hz: int) -> np.ndarray:
    """Quiet noise with 1 kHz tones of 30 ms that begin at the times of the clicks; float32 [S]."""
    track = 0.01 * np.random.default_rng(0).standard_normal(round(duration_s * rate_hz))
    for click_s in clicks_s:
        first, samples = round(click_s * rate_hz), round(0.03 * rate_hz)
        track[first : first + samples] += 0.8 * np.sin(2 * np.pi * 1000 * np.arange(samples) / rate_hz)
    return track.astype(np.float32)


def write_video(
    path: Path,
    duration_s: float = 2.0,
    fps: int = 10,
    size_px: tuple[int, int] = (64, 48),
    events_s: tuple[float, ...] = (),
    waveform: np.ndarray | None = None,
    rate_hz: int = 16000,
    layout: str = "mono",
    frame_numbers: list[int] | None = None,
    video_delay_s: float = 0.0,
    audio_delay_s: float = 0.0,
    audio: bool = True,
    video: bool = True,
    gop: int = 10,
    audio_codec: str = "aac",
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video.

    Args:
        events_s: times at which a frame is white and, unless `waveform` is given, a click begins.
        waveform: float32 [channels, S]; None: silence with clicks.
        frame_numbers: numbers of the frames to write, at number / fps (a variable frame rate); None: all.
        video_delay_s, audio_delay_s: delay of a stream and its events.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if waveform is None:
        waveform = silence_with_clicks(duration_s, events_s, rate_hz)[None]
    with av.open(str(path), "w", options=options or {}) as container:
        if video:
            video_stream = container.add_stream(
                "libx264", rate=fps, options={"preset": "ultrafast", "qp": "0", "g": str(gop), "bf": "2"}
            )
            video_stream.width, video_stream.height = size_px
            video_stream.pix_fmt = "yuv420p" if size_px[0] % 2 == size_px[1] % 2 == 0 else "yuv444p"
        if audio:
            audio_stream = container.add_stream(audio_codec, rate=rate_hz, layout=layout)
        if video:
            flashes = {round(event_s * fps) for event_s in events_s}
            for number in frame_numbers if frame_numbers is not None else range(round(duration_s * fps)):
                value = 255 if number in flashes else gray(number)
                frame = av.VideoFrame.from_ndarray(
                    np.full((size_px[1], size_px[0], 3), value, np.uint8), format="rgb24"
                )
                frame.pts, frame.time_base = number + round(video_delay_s * fps), Fraction(1, fps)
                container.mux(video_stream.encode(frame))
            container.mux(video_stream.encode())
        if audio:
            fmt = "fltp" if audio_codec == "aac" else "s16"
            data = waveform if fmt == "fltp" else (waveform.T.reshape(1, -1) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(data), format=fmt, layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = (
                rate_hz,
                round(audio_delay_s * rate_hz),
                Fraction(1, rate_hz),
            )
            container.mux(audio_stream.encode(frame))
            container.mux(audio_stream.encode())
    return path


def write_wav(path: Path, waveform: np.ndarray, rate_hz: int = 16000) -> Path:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate_hz, subtype="PCM_16")
    return path
