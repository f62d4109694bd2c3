"""Encode MP4 (H.264 + AAC), JPEG, PNG and WAV to bytes and tables to text, and write them atomically.

Codecs run on one thread, so that the same input gives the same bytes. Limits: image sides must be even.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.atomic_write import atomic_open
from pipelines.toy_world.sound import SAMPLE_RATE_HZ


def write_once(path: Path, make: Callable[[], bytes]) -> None:
    """Write a file unless it exists: writes are atomic, so an existing file is complete."""
    if not path.exists():
        write(path, make())


def write(path: Path, content: bytes) -> None:
    """Write a file atomically, in a folder that need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path) as file:
        file.write(content)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A CSV table of some columns of the rows, with a header."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def json_text(content: Any) -> str:
    """A JSON file that ends with a line end."""
    return json.dumps(content, indent=1) + "\n"


def encode_image(image: np.ndarray, file_format: str, **options: int) -> bytes:
    """Encode an image, uint8 [H_px, W_px, 3] or [H_px, W_px], as JPEG or PNG, with the options of Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, file_format, **options)
    return buffer.getvalue()


def wav(waveform: np.ndarray) -> bytes:
    """Encode a waveform, float32 [S] at 16 kHz, -1..1, as 16-bit WAV."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def mp4(frames: list[np.ndarray], fps: int, waveform: np.ndarray | None, sample_rate_hz: int) -> bytes:
    """Encode a video with an audio track.

    Args:
        frames: uint8 [H_px, W_px, 3] each, sides even.
        fps: frames per second.
        waveform: float32 [channels, S], one or two channels, -1..1; None: no audio track.
        sample_rate_hz: sample rate of the waveform and of the file.

    Returns:
        An MP4 file: H.264 (yuv420p) and AAC.
    """
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "23", "g": str(fps)})
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        if waveform is not None:
            layout = "mono" if len(waveform) == 1 else "stereo"
            audio = container.add_stream(
                "aac", rate=sample_rate_hz, layout=layout, bit_rate=64000 * len(waveform), options={"aac_coder": "fast"}
            )
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if waveform is not None:
            samples = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(waveform, np.float32), format="fltp", layout=layout
            )
            samples.sample_rate, samples.pts, samples.time_base = sample_rate_hz, 0, Fraction(1, sample_rate_hz)
            container.mux(audio.encode(samples))
            container.mux(audio.encode())
    return buffer.getvalue()
