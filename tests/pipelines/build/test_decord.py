"""decord decodes only files of which it returns the frames that are on screen; PyAV decodes the others."""

import dataclasses

import numpy as np
import pytest
from tiny_decode import SETTINGS, assert_in_step, decode, ffmpeg
from tiny_media import write_video

SIDE_PX = 128  # decord does not read 64x48
FINE = dataclasses.replace(SETTINGS, frames_per_clip=150, short_side_px=16)
EVENTS_S = (0.8, 2.2, 3.4)
H264 = "-c:v libx264 -qp 0 -bf 3 -g 25 -sc_threshold 0 -c:a aac"
FILES = {  # name: options of ffmpeg, decoder; "": whether GOPs are open depends on the encoder
    "v.mp4": (H264, "decord"),
    "v.mkv": (H264, "decord"),
    "v.webm": ("-c:v libvpx-vp9 -b:v 500k -g 25 -c:a libopus", "decord"),
    "variable.mp4": (f"-vf select='not(mod(n,5))+eq(n,55)+eq(n,85)' -fps_mode vfr {H264}", "decord"),
    "late_audio.mp4": (f"-af atrim=0.6 {H264}", "decord"),
    "two_videos.mp4": (f"-f lavfi -i color=white:s=320x240:r=25:d=5 -map 0 -map 1 {H264}", "pyav"),
    "v.ts": (H264, "pyav"),
    "v.flv": (H264, "pyav"),
    "mpeg2.ts": ("-c:v mpeg2video -q:v 2 -bf 2 -g 15 -c:a mp2", "pyav"),
    "v.avi": ("-c:v mpeg4 -q:v 2 -bf 2 -g 48 -c:a libmp3lame", "pyav"),
    "v.wmv": ("-c:v wmv2 -q:v 2 -g 48 -c:a wmav2", "pyav"),
    "v.ogv": ("-c:v libtheora -q:v 8 -g 48 -c:a libvorbis", "pyav"),
    "mpeg4.mp4": ("-c:v mpeg4 -q:v 2 -bf 2 -g 48 -c:a aac", "pyav"),
    "open_groups.mp4": (f"{H264} -x264-params open-gop=1:bframes=3:b-adapt=0", ""),
    "short_groups.mp4": ("-c:v libx264 -qp 0 -bf 3 -g 3 -c:a aac", "pyav"),
    "h265.mp4": ("-c:v libx265 -x265-params log-level=none:keyint=48:qp=8 -c:a aac", "pyav"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    size = (SIDE_PX, SIDE_PX)
    path = tmp_path_factory.mktemp("media") / "source.mkv"
    return write_video(path, 5.0, fps=25, size_px=size, events_s=EVENTS_S, rate_hz=48000, gop=25)


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_on_screen_whichever_decoder_is_chosen(tmp_path, source, name):
    options, decoder = FILES[name]
    ffmpeg("-i", source, *options.split(), tmp_path / name)
    for start_s, end_s, expected_s in ((0.0, 0.0, EVENTS_S), (1.4, 4.2, (0.8, 2.0))):
        settings = dataclasses.replace(FINE, decoder="decord")
        decoded = decode(tmp_path / name, start_s, end_s, settings=settings)
        assert_in_step(decoded, expected_s)
        assert decoded.decoder == (decoder or decoded.decoder) and decoded.decoder_version


@pytest.mark.parametrize("extension", ["mp4", "mkv", "ts"])
def test_video_cut_by_copying_has_the_frames_that_pyav_selects(tmp_path, source, extension):
    ffmpeg("-i", source, *H264.split(), tmp_path / f"full.{extension}")
    path = tmp_path / f"v.{extension}"
    ffmpeg("-ss", "1.62", "-i", tmp_path / f"full.{extension}", "-c", "copy", path)
    for mode in ("exact", "keyframes"):
        ours, theirs = (
            decode(path, settings=dataclasses.replace(SETTINGS, mode=mode, decoder=decoder))
            for decoder in ("pyav", "decord")
        )
        assert theirs.frame_times_s == pytest.approx(ours.frame_times_s, abs=0.002)
        assert all(np.abs(a.astype(int) - b).mean() < 2 for a, b in zip(ours.frames, theirs.frames, strict=True))
        assert theirs.decoder == ("decord" if extension == "mkv" else "pyav")


def test_keyframes_that_an_edit_list_hides_are_not_selected(tmp_path, source):
    ffmpeg("-i", source, *H264.split(), "-g", "250", tmp_path / "full.mp4")
    ffmpeg("-ss", "1.62", "-i", tmp_path / "full.mp4", "-c", "copy", tmp_path / "v.mp4")
    decoded = decode(tmp_path / "v.mp4", settings=dataclasses.replace(FINE, mode="keyframes"))
    assert_in_step(decoded, [0.58, 1.78])
