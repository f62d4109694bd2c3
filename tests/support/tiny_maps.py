"""A model whose maps are known, and the frames and the sound of a written video."""

from pathlib import Path

import av
import numpy as np
from torch import nn

from model.denseav import DenseAV, InputSpec, SimilarityConfig
from model.encoders.encoder import Encoder, ImageEncoder


class _RedAndBlue(ImageEncoder):
    stride, channels = 8, 2
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def encode_normalized(self, frames):
        return nn.functional.avg_pool2d(frames[:, [0, 2]], 8), None


class _Loudness(Encoder):
    channels = 2

    def forward(self, waveform):
        return waveform.unfold(-1, 1600, 1600).abs().mean(dim=-1)[:, None].repeat(1, 2, 1), None


class _AsItIs(nn.Module):
    def forward(self, dense, cls):
        return dense, cls


def red_and_blue(clip_duration_s: float = 1.0) -> DenseAV:
    """Head 0 is red times loudness, head 1 blue times loudness: cells of 8 px at a short side of 48, steps of 0.1 s."""
    inputs = InputSpec(48, clip_duration_s, 16000)
    return DenseAV(_RedAndBlue(), _Loudness(), _AsItIs(), _AsItIs(), 2, 1, inputs, SimilarityConfig()).eval()


def decoded(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Times [N] and frames [N, H_px, W_px, 3] of a video, its sound [S] from time 0, and its rate in Hz."""
    with av.open(f"file:{path}") as container:
        frames = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    with av.open(f"file:{path}") as container:
        sounds = [frame for frame in container.decode(audio=0) if frame.time >= 0] if container.streams.audio else []
        sound = np.concatenate([frame.to_ndarray().mean(axis=0) for frame in sounds]) if sounds else np.zeros(0)
        rate_hz = sounds[0].sample_rate if sounds else 0
        if sounds:
            sound = np.pad(sound, (round(float(sounds[0].time) * rate_hz), 0))
    return np.array([time_s for time_s, _ in frames]), np.stack([frame for _, frame in frames]), sound, rate_hz


def flashes_and_clicks(path: Path) -> tuple[list[float], list[float]]:
    """Times at which the picture becomes much brighter, and at which a tone starts."""
    times_s, frames, sound, rate_hz = decoded(path)
    light = np.diff(frames.mean(axis=(1, 2, 3)), prepend=frames[0].mean())
    loud_s = np.flatnonzero(np.abs(sound) > 0.3) / rate_hz
    return times_s[light > 25].tolist(), loud_s[np.diff(loud_s, prepend=-1.0) > 0.1].tolist()


def write_halves(path: Path, duration_s: float = 2.0, loud_s: tuple[float, float] = (1.0, 1.5), fps: int = 10) -> Path:
    """A video of 96 x 48 px, red on the left and blue on the right, with a tone of 440 Hz in a part of it."""
    rate_hz = 16000
    at_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    tone = np.where((loud_s[0] <= at_s) & (at_s < loud_s[1]), 0.5 * np.sin(2 * np.pi * 440 * at_s), 0)
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:, :48, 0], picture[:, 48:, 2] = 200, 200
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"qp": "0", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 96, 48, "yuv444p"
        audio = container.add_stream("aac", rate=rate_hz, layout="mono")
        for _ in range(round(duration_s * fps)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path
