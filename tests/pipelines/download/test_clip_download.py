"""Clips cut from videos on a loopback server: exact times, and what becomes of each kind of failure."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from tiny_decode import click_s, decode, flash_s
from tiny_download import EVENT_S, video_page, write_source

from configs.errors import CommandFailed
from configs.schema import DecodeConfig, DownloadConfig

pytest.importorskip("yt_dlp", reason="extra download is not installed")

from pipelines.download.clip_download import MUXERS, ClipDownloader
from pipelines.download.cut_check import read_durations
from pipelines.download.ffmpeg_path import Ffmpeg

ALL_FRAMES = DecodeConfig(frames_per_clip=250, short_side_px=48, keep_static=True)


@pytest.fixture
def ffmpeg(monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("PATH", "/nowhere")  # as on a machine without ffmpeg
        monkeypatch.setenv("FFREPORT", "to be removed at the end of the test")
        del os.environ["FFREPORT"]
        yield Ffmpeg(Path(folder))


def test_ffmpeg_without_an_h264_encoder_is_passed_over_and_none_at_all_is_one_line(tmp_path, monkeypatch):
    for folder in ("old", "links"):
        (tmp_path / folder).mkdir()
    (tmp_path / "old/ffmpeg").write_text("#!/bin/sh\necho mpeg4\n")
    (tmp_path / "old/ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "old"))
    monkeypatch.setenv("FFREPORT", "to be removed at the end of the test")
    del os.environ["FFREPORT"]
    Ffmpeg(tmp_path / "links")
    assert shutil.which("ffmpeg") == str(tmp_path / "links/ffmpeg")
    del os.environ["FFREPORT"]
    monkeypatch.setenv("PATH", str(tmp_path / "old"))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "old/ffmpeg"))
    with pytest.raises(CommandFailed, match="no ffmpeg with the encoder libx264 was found"):
        Ffmpeg(tmp_path / "links")


@pytest.fixture
def downloader(tmp_path, ffmpeg):
    with ClipDownloader(DownloadConfig(timeout_s=2.0), tmp_path, MUXERS[".mp4"], ffmpeg) as downloader:
        yield downloader


@pytest.mark.parametrize(("start_s", "end_s"), [(5.0, 15.0), (0.0, 10.0), (6.28, 9.0)])
def test_cut_begins_and_ends_at_its_times_in_picture_and_sound(server, downloader, start_s, end_s):
    cut = downloader.download(f"{server.address}/source.mp4", start_s, end_s)
    decoded = decode(cut.path, settings=ALL_FRAMES)
    assert flash_s(decoded) == pytest.approx(EVENT_S - start_s, abs=0.08)
    assert click_s(decoded) == pytest.approx(EVENT_S - start_s, abs=0.08)
    assert read_durations(cut.path).video_s == pytest.approx(end_s - start_s, abs=0.08)
    assert cut.verdict is None and cut.warning is None


def _verdict(downloader, url, start_s=5.0, end_s=15.0):
    cut = downloader.download(url, start_s, end_s)
    assert cut.path is None
    return cut.verdict


@pytest.mark.parametrize(
    ("fault", "status", "detail"),
    [
        ("404", "gone", "HTTP Error 404"),
        ("410", "gone", "HTTP Error 410"),
        ("403", "retry", "HTTP Error 403"),
        ("503", "retry", "HTTP Error 503"),
        ("401", "not_here", "HTTP Error 401"),
        ("451", "not_here", "HTTP Error 451"),
        ("429", "stop", "HTTP Error 429"),
        ("html", "stop", "Unsupported URL"),
        ("range:404", "gone", "HTTP Error 404"),
        ("range:403", "retry", "HTTP Error 403"),
        ("range:503", "retry", "HTTP Error 503"),
        ("range:429", "stop", "429"),
        ("range:html", "stop", "a web page in place of the video"),
        ("range:short", "retry", "broke off"),
        ("range:stall", "retry", ""),
    ],
)
def test_faults_of_the_page_and_of_the_media_have_their_meaning(server, downloader, fault, status, detail):
    server.faults["source.mp4"] = [fault, "..."]
    verdict = _verdict(downloader, f"{server.address}/source.mp4")
    assert verdict.status == status and detail in verdict.detail, verdict
    assert (status == "stop") == bool(verdict.advice)


def test_a_download_that_takes_too_long_is_left_for_later(server, tmp_path, ffmpeg):
    server.faults["source.mp4"] = ["range:drip", "..."]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with ClipDownloader(DownloadConfig(timeout_s=0.5), scratch, "mp4", ffmpeg) as downloader:
        assert _verdict(downloader, f"{server.address}/source.mp4").detail.startswith(
            "the download took longer than 5 s"
        )


@pytest.mark.parametrize("duration_s", [None, 20.0])
def test_segment_at_the_end_of_a_video_is_cut_there_and_one_behind_it_is_gone(server, downloader, duration_s):
    server.pages["v"] = video_page(duration=duration_s)
    cut = downloader.download(server.watch("v"), 14.0, 24.0)
    assert read_durations(cut.path).video_s == pytest.approx(6.0, abs=0.08)
    verdict = _verdict(downloader, server.watch("v"), 30.0, 40.0)
    assert verdict.status == "gone" and verdict.detail.startswith("the video ends at 20")


def test_largest_format_within_the_limit_is_taken_and_larger_ones_are_scaled(server, media, downloader):
    for height in (180, 240, 480):
        write_source(media, f"{height}.mp4", size_px=(height * 4 // 3, height), duration_s=9.0)
    formats = [
        {"format_id": str(h), "url": f"{h}.mp4", "height": h, "width": h * 4 // 3, "ext": "mp4"}
        for h in (180, 480, 240)
    ]
    server.pages["v"] = {"formats": formats}
    decoded = decode(downloader.download(server.watch("v"), 5.0, 8.0).path, settings=DecodeConfig(keep_static=True))
    assert decoded.frames[0].shape == (240, 320, 3)
    server.pages["w"] = {"formats": formats[1:2]}
    large = DecodeConfig(keep_static=True, short_side_px=1000)
    assert decode(downloader.download(server.watch("w"), 5.0, 8.0).path, settings=large).frames[0].shape[0] == 360


def test_separate_video_and_audio_are_merged_and_a_truncated_one_is_noticed(server, media, downloader):
    write_source(media, "video.mp4", audio=False)
    write_source(media, "audio.mp4", video=False)
    formats = [
        {
            "format_id": "v",
            "url": "video.mp4",
            "ext": "mp4",
            "height": 48,
            "width": 64,
            "acodec": "none",
            "vcodec": "h264",
        },
        {"format_id": "a", "url": "audio.mp4", "ext": "m4a", "vcodec": "none", "acodec": "aac"},
    ]
    server.pages["v"] = {"formats": formats, "duration": 20}
    decoded = decode(downloader.download(server.watch("v"), 5.0, 15.0).path, settings=ALL_FRAMES)
    assert flash_s(decoded) == pytest.approx(2.4, abs=0.08) and click_s(decoded) == pytest.approx(2.4, abs=0.08)
    server.faults["audio.mp4"] = ["range:short", "..."]
    assert "broke off" in _verdict(downloader, server.watch("v"), 5.0, 15.0).detail


@pytest.mark.parametrize("status", ["is_live", "is_upcoming", "post_live"])
def test_live_videos_are_left_for_later(server, downloader, status):
    server.pages["v"] = video_page(live_status=status)
    assert _verdict(downloader, server.watch("v")).status == "retry"


def test_warning_about_the_javascript_runtime_stops_after_the_clip(server, downloader):
    text = "No supported JavaScript runtime could be found. Only deno is enabled by default"
    server.pages["v"] = video_page(warnings=[text])
    cut = downloader.download(server.watch("v"), 5.0, 6.0)
    assert cut.path and cut.warning.status == "stop"
    server.pages["v"] = {"error": "Video unavailable", "warnings": [text]}
    assert _verdict(downloader, server.watch("v")).status == "stop"


def test_error_of_an_extractor_concerns_its_clip_only(server, downloader):
    server.pages["v"] = {"kind": "bug", "error": "player"}
    verdict = _verdict(downloader, server.watch("v"))
    assert verdict.status == "retry" and "player" in verdict.detail
