"""Heatmap videos: decoded again, they have the frames, times and audio of their source."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tiny_decode import ffmpeg
from tiny_media import silence_with_clicks, write_video
from torch import nn

from configs.errors import UsageError
from configs.schema import RenderConfig
from eval import heatmap_video
from eval.heatmap_video import heatmaps_over_time, render_heatmap_video
from eval.render import main
from model.denseav import DenseAV, InputSpec, SimilarityConfig
from model.encoders.encoder import Encoder, ImageEncoder


class _Brightness(ImageEncoder):
    stride, channels = 8, 1

    def encode_normalized(self, frames):
        return nn.functional.avg_pool2d(frames.mean(dim=1, keepdim=True), 8) + 10, None


class _Loudness(Encoder):
    channels = 1

    def forward(self, waveform):
        return waveform.unfold(-1, 1600, 1600).abs().mean(dim=-1)[:, None], None


class _AsItIs(nn.Module):
    def forward(self, dense, cls):
        return dense, cls


@pytest.fixture
def loudness_of_brightness():
    """A model whose similarity is high where the image is bright and the audio is loud."""
    return DenseAV(
        _Brightness(), _Loudness(), _AsItIs(), _AsItIs(), 1, 1, InputSpec(48, 1.0, 16000), SimilarityConfig()
    ).eval()


def _decoded(path):
    with av.open(str(path)) as container:
        frames = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0)])
        rate_hz = container.streams.audio[0].rate
    return frames, sound, rate_hz


def test_heatmap_follows_the_audio_and_the_audio_is_kept(tmp_path, loudness_of_brightness):
    duration_s = 2.4
    waveform = np.zeros(round(duration_s * 16000), np.float32)
    waveform[16000:24000] = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    write_video(tmp_path / "in.mp4", duration_s, waveform=waveform[None])
    out = render_heatmap_video(loudness_of_brightness, tmp_path / "in.mp4", tmp_path / "out.mp4")
    frames, sound, rate_hz = _decoded(out)
    assert len(frames) == 24 and [t for t, _ in frames] == pytest.approx([n / 10 for n in range(24)])
    assert frames[0][1].shape == (288, 384, 3)
    red = np.array([picture[..., 0].mean() for _, picture in frames])
    assert red[11:14].min() > red[:8].max() + 30 and red[11:14].min() > red[17:].max() + 30
    assert len(sound) / rate_hz == pytest.approx(duration_s, abs=0.1)
    loud_s = np.flatnonzero(np.abs(sound) > 0.2) / rate_hz
    assert loud_s[0] == pytest.approx(1.0, abs=0.06) and loud_s[-1] == pytest.approx(1.5, abs=0.06)


def test_heatmap_is_linear_between_audio_steps_and_keeps_the_aspect_ratio(loudness_of_brightness):
    frames = [np.full((48, 96, 3), 128, np.uint8)]
    waveform = np.repeat(np.linspace(0, 1, 15, dtype=np.float32), 1600)
    maps = heatmaps_over_time(loudness_of_brightness, frames, np.zeros(3, int), np.array([0.25, 0.30, 0.35]), waveform)
    assert maps.shape == (3, 6, 12)
    assert maps[1] == pytest.approx((maps[0] + maps[2]) / 2) and (maps[2] > maps[0]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "no such file"),
        (lambda path: path.write_bytes(b"no video at all" * 100), "cannot be opened as a video"),
        (lambda path: write_video(path, 1.0, audio=False), "no audio"),
        (lambda path: write_video(path, 1.0, video=False), "has no video stream"),
    ],
)
def test_file_that_is_not_a_video_with_audio_is_refused(tmp_path, loudness_of_brightness, make, message):
    make(tmp_path / "in.mp4")
    with pytest.raises(UsageError, match=message):
        render_heatmap_video(loudness_of_brightness, tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_rendering_keeps_the_random_state(tmp_path, loudness_of_brightness):
    assert not loudness_of_brightness.training
    write_video(tmp_path / "in.mp4", 1.0)
    before = torch.random.get_rng_state()
    render_heatmap_video(loudness_of_brightness, tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("in.mp4", "is the input video, which would be overwritten"),
        ("x.webm", "give the name of the mp4"),
        ("", "is a folder"),
    ],
)
def test_invalid_output_paths_are_refused(tmp_path, out, message):
    write_video(tmp_path / "in.mp4", duration_s=0.6, events_s=(0.3,))
    before = (tmp_path / "in.mp4").read_bytes()
    with pytest.raises(UsageError, match=message):
        main(RenderConfig(checkpoint="nowhere", video=str(tmp_path / "in.mp4"), out=f"{tmp_path}/./{out}"))
    assert (tmp_path / "in.mp4").read_bytes() == before


def test_long_video_is_truncated_with_a_message(tmp_path, loudness_of_brightness, monkeypatch, capsys):
    monkeypatch.setattr(heatmap_video, "MAX_DURATION_S", 1.0)
    video = write_video(tmp_path / "in.mp4", duration_s=2.4, events_s=(0.3,))
    frames, _, _ = _decoded(render_heatmap_video(loudness_of_brightness, video, tmp_path / "out.mp4"))
    assert frames[-1][0] < 1.0 and "only the first 1 of 2 s are rendered" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["joined", "later clock", "gap", "longer subtitles", "one frame per second", "piped"])
def test_flash_and_click_stay_together_whatever_the_timestamps(tmp_path, loudness_of_brightness, kind):
    write_video(tmp_path / "a.mkv", 3.0, fps=10, events_s=(0.8, 2.2), rate_hz=48000)
    write_video(tmp_path / "b.mkv", 2.0, fps=10, events_s=(0.4, 1.2), rate_hz=48000)
    sound = silence_with_clicks(4.0, (2.0,), 48000)[None]
    write_video(tmp_path / "slow.mp4", 6.0, fps=1, waveform=sound, events_s=(2.0,), rate_hz=48000)
    (tmp_path / "s.srt").write_text("1\n00:00:00,500 --> 00:00:09,500\nhello\n")
    source, options, expected_s = {
        "joined": ("a.mkv", "-c copy -f matroska", [0.8, 2.2]),
        "later clock": ("a.mkv", "-c copy -output_ts_offset 100 -f matroska", [0.8, 2.2]),
        "gap": ("a.mkv", "-c copy -f mpegts", [0.82, 2.22, 6.4, 7.2]),
        "longer subtitles": ("a.mkv", f"-i {tmp_path}/s.srt -map 0 -map 1 -c copy -f matroska", [0.8, 2.2]),
        "one frame per second": ("slow.mp4", "-c copy -f mp4", [2.0]),
        "piped": ("a.mkv", "-c copy -f matroska -live 1", [0.8, 2.2]),
    }[kind]
    ffmpeg("-i", tmp_path / source, *options.split(), tmp_path / "in")
    second = {"joined": "-c copy -f matroska", "gap": "-c copy -output_ts_offset 6 -f mpegts"}.get(kind)
    if second:
        ffmpeg("-i", tmp_path / "b.mkv", *second.split(), tmp_path / "second")
        (tmp_path / "in").write_bytes((tmp_path / "in").read_bytes() + (tmp_path / "second").read_bytes())
    frames, sound, rate_hz = _decoded(
        render_heatmap_video(loudness_of_brightness, tmp_path / "in", tmp_path / "out.mp4")
    )
    light = np.diff([picture.mean() for _, picture in frames], prepend=0)
    flashes_s = [time_s for (time_s, _), rise in zip(frames, light, strict=True) if rise > 50 and time_s]
    loud_s = np.flatnonzero(np.abs(sound) > 0.3) / rate_hz
    clicks_s = loud_s[np.diff(loud_s, prepend=-1.0) > 0.1]
    assert clicks_s == pytest.approx(expected_s, abs=0.08)
    assert flashes_s == pytest.approx(expected_s, abs=0.08)


@pytest.mark.parametrize(
    "name",
    ["a:b", "-v", "a%03d", "a\nb", "concat:a|b", "file:x", "http:x", os.fsdecode(b"\xff\xfe"), "[a]*?'\"", " a"],
)
def test_video_and_output_may_have_any_name(tmp_path, monkeypatch, loudness_of_brightness, name):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "in.mp4", 0.5, events_s=(0.3,)).rename(f"{name}.mp4")
    out = render_heatmap_video(loudness_of_brightness, Path(f"{name}.mp4"), Path(f"{name} out.mp4"))
    assert out.is_file() and len(_decoded(f"file:{out}")[0]) == 5
    assert sorted(tmp_path.iterdir()) == sorted(tmp_path / file for file in (f"{name}.mp4", f"{name} out.mp4"))
