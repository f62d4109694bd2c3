"""Files whose container states a duration that is not that of their audio and video; truncated files are rejected."""

import dataclasses
import struct
import subprocess

import pytest
from tiny_decode import SETTINGS, assert_in_step, decode, ffmpeg, reason
from tiny_media import write_video

from pipelines.build.decode.ffmpeg_fallback import ffmpeg_program

FINE = dataclasses.replace(SETTINGS, frames_per_clip=150, short_side_px=16)
EVENTS_S = (0.8, 2.2)
CODECS = {
    "mp4": "-c copy -movflags faststart",
    "mov": "-c:v copy -c:a pcm_s16le -movflags faststart",
    "mkv": "-c copy",
    "webm": "-c:v libvpx -b:v 500k -g 25 -c:a libopus",
    "flv": "-c copy",
    "avi": "-c:v mpeg4 -q:v 2 -c:a pcm_s16le",
    "wmv": "-c:v wmv2 -q:v 2 -c:a wmav2",
    "ts": "-c copy",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """v.EXTENSION of 3 s in each format, long.mkv of 8 s, and subtitles that end at 20 s."""
    folder = tmp_path_factory.mktemp("media")
    source = write_video(folder / "source.mkv", 3.0, fps=25, events_s=EVENTS_S, rate_hz=48000, gop=25)
    write_video(folder / "long.mkv", 8.0, fps=25, rate_hz=48000, gop=25)
    (folder / "s.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\nhello\n\n2\n00:00:19,000 --> 00:00:20,000\nbye\n")
    for extension, options in CODECS.items():
        ffmpeg("-i", source, *options.split(), folder / f"v.{extension}")
    return folder


@pytest.mark.parametrize(
    ("extension", "more"),
    [
        ("mkv", "-i s.srt -map 0 -map 1 -c copy"),
        ("webm", "-i s.srt -map 0 -map 1 -c:v copy -c:a copy -c:s webvtt"),
        ("mp4", "-i s.srt -map 0 -map 1 -c:v copy -c:a copy -c:s mov_text"),
        ("mp4", "-i long.mkv -map 0 -map 1:a -c copy"),
        ("mkv", "-i long.mkv -map 0 -map 1:v -c copy"),
        ("ts", "-i long.mkv -map 0 -map 1:v -c copy"),
    ],
)
def test_longer_stream_that_is_not_used_does_not_make_a_file_truncated(tmp_path, folder, extension, more):
    path = tmp_path / f"v.{extension}"
    more = [str(folder / word) if "." in word else word for word in more.split()]
    ffmpeg("-i", folder / f"v.{extension}", *more, path)
    decoded = decode(path, settings=FINE)
    assert_in_step(decoded, EVENTS_S)
    assert decoded.end_s == pytest.approx(3.0, abs=0.1)
    assert_in_step(decode(path, 1.0, 9.0, settings=FINE), [1.2])
    assert reason(path, start_s=4.0, end_s=6.0) == "outside_file"


@pytest.mark.parametrize("extension", ["mkv", "webm", "mp4", "flv", "ts"])
def test_clock_that_does_not_start_at_zero(tmp_path, folder, extension):
    path = tmp_path / f"v.{extension}"
    ffmpeg("-i", folder / f"v.{extension}", "-c", "copy", "-output_ts_offset", "100", path)
    decoded = decode(path, settings=FINE)
    assert_in_step(decoded, EVENTS_S)
    assert decoded.end_s == pytest.approx(3.0, abs=0.1)
    assert_in_step(decode(path, 1.0, 11.0, settings=FINE), [1.2])


@pytest.mark.parametrize("extension", ["mp4", "mkv", "flv", "ts"])
@pytest.mark.parametrize("fps", [1, 0.5])
def test_slow_video_whose_audio_ends_earlier(tmp_path, extension, fps):
    write_video(tmp_path / "fast.mkv", 1.2 * fps, fps=10, events_s=(0.4 * fps,), audio=False, gop=5)
    write_video(tmp_path / "sound.mkv", 8.0, events_s=(4.0,), video=False)
    path, slow = tmp_path / f"v.{extension}", f"setpts=PTS*10/{fps},fps={fps}"
    inputs = ["-i", tmp_path / "fast.mkv", "-i", tmp_path / "sound.mkv"]
    ffmpeg(*inputs, "-vf", slow, "-c:v", "libx264", "-qp", "0", "-g", "5", "-c:a", "copy", path)
    decoded = decode(path, settings=FINE)
    assert_in_step(decoded, [4.0])
    assert decoded.end_s == pytest.approx(12.0, abs=1.0)
    assert len(decoded.waveform) == pytest.approx(8 * 16000, abs=2000)


@pytest.mark.parametrize("stated_s", [1.0, 60.0])
@pytest.mark.parametrize("extension", ["mkv", "flv"])
def test_duration_that_is_wrong_in_the_header(tmp_path, folder, extension, stated_s):
    data = bytearray((folder / f"v.{extension}").read_bytes())
    name, stated = (b"\x44\x89\x88", stated_s * 1000) if extension == "mkv" else (b"duration\0", stated_s)
    at = data.index(name) + len(name)
    assert struct.unpack(">d", data[at : at + 8])[0] == pytest.approx(stated / stated_s * 3, rel=0.02)
    data[at : at + 8] = struct.pack(">d", stated)
    path = tmp_path / f"v.{extension}"
    path.write_bytes(data)
    assert_in_step(decode(path, settings=FINE), [time_s for time_s in EVENTS_S if time_s < stated_s])
    assert_in_step(decode(path, 1.4, 2.8, settings=FINE), [0.8])


def test_file_written_into_a_pipe_is_read_to_its_end(tmp_path, folder):
    for extension, container in (("avi", "avi"), ("flv", "flv"), ("mkv", "matroska"), ("wmv", "asf")):
        path = tmp_path / f"v.{extension}"
        command = [ffmpeg_program(), "-v", "error", "-i", folder / f"v.{extension}", "-c", "copy", "-f", container, "-"]
        path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
        assert_in_step(decode(path, settings=FINE), EVENTS_S)


@pytest.mark.parametrize("kept", [0.5, 0.7])
@pytest.mark.parametrize("extension", ["mp4", "mov", "mkv", "webm", "flv", "avi"])
def test_truncated_file_is_rejected(tmp_path, folder, extension, kept):
    data = (folder / f"v.{extension}").read_bytes()
    (tmp_path / f"v.{extension}").write_bytes(data[: int(len(data) * kept)])
    assert reason(tmp_path / f"v.{extension}") == "unreadable"


@pytest.mark.parametrize("extension", ["mp4", "mkv", "webm", "flv", "avi", "wmv"])
def test_download_that_was_interrupted_after_its_space_was_reserved_is_rejected(tmp_path, folder, extension):
    data = (folder / f"v.{extension}").read_bytes()
    (tmp_path / f"v.{extension}").write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    assert reason(tmp_path / f"v.{extension}") == "unreadable"


def test_truncated_file_with_a_longer_subtitle_track_is_rejected(tmp_path, folder):
    ffmpeg("-i", folder / "v.mkv", "-i", folder / "s.srt", "-map", "0", "-map", "1", "-c", "copy", tmp_path / "s.mkv")
    data = (tmp_path / "s.mkv").read_bytes()
    (tmp_path / "v.mkv").write_bytes(data[: len(data) // 2])
    assert reason(tmp_path / "v.mkv") == "unreadable"
    assert reason(tmp_path / "v.mkv", start_s=2.5, end_s=9.0) == "unreadable"


@pytest.mark.parametrize("short", ["audio", "video"])
@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_one_stream_may_be_shorter_but_not_because_the_file_is_truncated(tmp_path, short, extension):
    write_video(tmp_path / "long.mkv", 6.0, fps=25, events_s=(0.8,), rate_hz=48000, gop=25)
    cut = "-af atrim=0:2" if short == "audio" else "-vf trim=0:2 -c:v libx264 -qp 0 -g 25"
    path = tmp_path / f"v.{extension}"
    ffmpeg("-i", tmp_path / "long.mkv", *cut.split(), "-movflags", "faststart", path)
    decoded = decode(path, settings=dataclasses.replace(FINE, frames_per_clip=300))
    assert_in_step(decoded, [0.8])
    assert decoded.end_s == pytest.approx(6.0, abs=0.1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 8 // 10])
    assert reason(path) == "unreadable"
