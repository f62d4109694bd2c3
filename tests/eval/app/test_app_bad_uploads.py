"""Bad uploads to `python -m eval.app`: one message each, and the server continues."""

import struct

import numpy as np
import pytest
from odd_media import png, wav_header
from tiny_app import video_path
from tiny_media import write_video, write_wav


def _box(kind: bytes, size: int, content: bytes = b"") -> bytes:
    return struct.pack(">I", size) + kind + content


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10.0,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
FTYP = _box(b"ftyp", 20, b"isom\0\0\0\0isom")
BAD_VIDEOS = {
    "text": (b"This is not a video.\n" * 100, "cannot be used"),
    "empty": (b"", "cannot be used"),
    "header_of_2_gb": (FTYP + _box(b"moov", 2_000_000_000, b"\0" * 1000), "cannot be used"),
    "playlist": (PLAYLIST, "cannot be used"),
    "concat": (b"ffconcat version 1.0\nfile /etc/passwd\n", "cannot be used"),
}


@pytest.mark.parametrize("name", BAD_VIDEOS)
def test_a_file_that_is_not_a_video_gives_one_message_and_the_next_job_works(visitor, clip, tmp_path, name):
    content, message = BAD_VIDEOS[name]
    (tmp_path / f"{name}.mp4").write_bytes(content)
    error = visitor.localize(tmp_path / f"{name}.mp4")["error"]
    assert message in error and f"{name}.mp4" in error and str(tmp_path.root) + "tmp" not in error
    assert "\n" not in error and "Traceback" not in error and len(error) < 300
    assert video_path(visitor.localize(clip)).is_file()


def test_too_long_and_too_large_videos_give_the_limit(visitor, tmp_path):
    long = write_video(tmp_path / "long.mp4", duration_s=31, fps=2)
    assert "at most 30 s" in visitor.localize(long)["error"]
    large = write_video(tmp_path / "large.mp4", duration_s=0.4, size_px=(1200, 1000))
    assert "at most 1000000" in visitor.localize(large)["error"]


def test_a_video_of_one_pixel_is_localized_or_refused_in_one_line(visitor, tmp_path):
    answer = visitor.localize(write_video(tmp_path / "pixel.mp4", size_px=(1, 1), audio_codec="aac"))
    assert "data" in answer or ("\n" not in answer["error"] and "log says why" not in answer["error"])


def test_videos_without_sound_or_picture_say_so_and_show_what_they_can(visitor, tmp_path):
    for options in ({"audio": False}, {"video": False}):
        answer = visitor.localize(write_video(tmp_path / f"{next(iter(options))}.mp4", **options))
        assert video_path(answer).is_file()


def test_bombs_and_broken_pictures_give_one_message(visitor, tmp_path):
    sound = write_wav(tmp_path / "sound.wav", np.zeros(16000))
    rows = (b"\0" * 90_001) * 3000  # 30000 x 30000 pixels were 2.7 GB
    for name, content in {
        "bomb": png(30_000, 30_000, rows=rows),
        "text": b"text",
        "cut": png(40, 30, rows=b""),
    }.items():
        (tmp_path / f"{name}.png").write_bytes(content)
        visitor.join(
            "run-image", visitor.upload(tmp_path / f"{name}.png"), visitor.upload(sound), "heatmap", "bilinear", 0
        )
        error = visitor.answer()["error"]
        assert f"{name}.png" in error and "\n" not in error and "log says why" not in error


def test_a_sound_with_a_header_of_2_gb_gives_one_message(visitor, tmp_path):
    (tmp_path / "picture.png").write_bytes(png(40, 30, rows=(b"\0" + b"a" * 120) * 30))
    (tmp_path / "sound.wav").write_bytes(wav_header(1, 2_000_000_000) + b"\0" * 100)
    files = [visitor.upload(tmp_path / name) for name in ("picture.png", "sound.wav")]
    visitor.join("run-image", *files, "heatmap", "bilinear", 0)
    answer = visitor.answer()
    assert "\n" not in answer.get("error", "") and "log says why" not in answer.get("error", "")


def test_values_that_the_page_does_not_offer_are_refused(visitor, clip):
    offered = ("heatmap", "bilinear", 0)
    views, upsamplers, models = ("../../x", "head:99"), ("../../x", "anyup", None), (99, -1, None)
    wrong = [(view, *offered[1:]) for view in views] + [("heatmap", name, 0) for name in upsamplers]
    for values in [*wrong, *(("heatmap", "bilinear", model) for model in models)]:
        visitor.join("run-video", visitor.upload(clip), *values)
        assert "error" in visitor.answer()
