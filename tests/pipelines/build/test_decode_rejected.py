"""Media that are rejected, by reason, and unusual or slightly damaged media that are not."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from other_user import open_folder
from paths import ROOT
from PIL import Image
from tiny_decode import SETTINGS, decode, ffmpeg, reason
from tiny_media import silence_with_clicks, write_video, write_wav


def _half(path: Path, full: Path) -> Path:
    path.write_bytes(full.read_bytes()[: full.stat().st_size // 2])
    return path


def _truncated(path: Path) -> Path:
    """Half of a file whose header is at its front and states the full length."""
    return _half(path, write_video(path.with_name("full.mp4"), duration_s=8.0, options={"movflags": "faststart"}))


def _no_moov(path: Path) -> Path:
    return _half(path, write_video(path.with_name("full.mp4")))


def _written(content: bytes):
    return lambda path: path.write_bytes(content)


BAD_MEDIA = {
    "missing": ("missing", lambda _: None),
    "a name that is too long": ("missing", lambda _: "x" * 300),
    "zero bytes": ("unreadable", _written(b"")),
    "text": ("unreadable", _written(b"hello\n" * 1000)),
    "noise": ("unreadable", _written(np.random.default_rng(0).bytes(100_000))),
    "a playlist": (
        "unreadable",
        _written(b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
    ),
    "a list of other files": ("unreadable", _written(b"ffconcat version 1.0\nfile other.mp4\n")),
    "a folder": ("unreadable", lambda path: path.mkdir()),
    "a pipe": ("unreadable", os.mkfifo),
    "no index": ("unreadable", _no_moov),
    "truncated": ("unreadable", _truncated),
    "no audio stream": ("no_audio", lambda path: write_video(path, audio=False)),
    "no video stream": ("no_video", lambda path: write_video(path, video=False)),
    "silence": ("silent", lambda path: write_video(path, waveform=np.zeros((1, 32000), np.float32))),
    "too short": ("too_short", lambda path: write_video(path, duration_s=0.2)),
}


@pytest.mark.parametrize("case", BAD_MEDIA)
def test_bad_media_are_rejected_with_a_reason(tmp_path, case):
    expected, make = BAD_MEDIA[case]
    name = make(tmp_path / "bad.mp4")
    assert reason(tmp_path / (name if isinstance(name, str) else "bad.mp4")) == expected


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_truncated_audio_with_an_intact_image_is_unreadable(tmp_path, kind):
    ffmpeg(
        "-i", write_wav(tmp_path / "a.wav", silence_with_clicks(4.0, (0.5,), 16000)), "-f", kind, tmp_path / f"b.{kind}"
    )
    Image.new("RGB", (50, 50)).save(tmp_path / "p.png")
    assert decode(tmp_path / f"b.{kind}", image="p.png").end_s == 4.0
    assert reason(_half(tmp_path / f"half.{kind}", tmp_path / f"b.{kind}"), image="p.png") == "unreadable"


def test_streamed_wav_without_a_stated_length_is_accepted(tmp_path):
    wav = write_wav(tmp_path / "a.wav", silence_with_clicks(2.0, (0.5,), 16000))
    header = bytearray(wav.read_bytes())
    header[4:8] = header[40:44] = b"\xff\xff\xff\xff"
    wav.write_bytes(header)
    Image.new("RGB", (50, 50)).save(tmp_path / "p.png")
    assert decode(wav, image="p.png").end_s == 2.0


def test_slight_damage_is_accepted_and_heavy_damage_is_unreadable(tmp_path):
    intact = write_video(tmp_path / "v.mp4", duration_s=6.0, events_s=(2.2,)).read_bytes()
    (tmp_path / "scratched.mp4").write_bytes(
        intact[: len(intact) // 3] + b"\xff" * 3000 + intact[len(intact) // 3 + 3000 :]
    )
    assert decode(tmp_path / "scratched.mp4").end_s == 6.0
    noise = np.random.default_rng(0)
    ruined = bytearray(intact)
    for at in noise.integers(2000, len(intact) - 6000, 2000):
        ruined[at] ^= 0x55
    (tmp_path / "ruined.mp4").write_bytes(ruined)
    assert reason(tmp_path / "ruined.mp4") == "unreadable"


def test_static_video_is_rejected_unless_keep_static(tmp_path):
    flashes = tuple(number / 10 for number in range(20))  # all frames are white
    still = write_video(
        tmp_path / "still.mp4", events_s=flashes, waveform=silence_with_clicks(2.0, (0.5,), 16000)[None]
    )
    moving = write_video(tmp_path / "moving.mp4", duration_s=2.0)
    settings = dataclasses.replace(SETTINGS, keep_static=False)
    assert reason(still, settings=settings) == "static"
    assert reason(write_video(tmp_path / "one.mp4", frame_numbers=[0]), settings=settings) == "static"
    assert len(decode(moving, settings=settings).frames) == 10
    assert len(decode(still).frames) == 1


def test_single_keyframe_is_not_rejected_as_static(tmp_path):
    settings = dataclasses.replace(SETTINGS, keep_static=False, mode="keyframes")
    assert len(decode(write_video(tmp_path / "v.mp4", gop=100), settings=settings).frames) == 1


def test_small_moving_object_is_not_static(tmp_path):
    scene = "color=gray:s=128x96:r=10[a];color=white:s=4x4:r=10[b];[a][b]overlay=x='20*t':y=10"
    ffmpeg("-f", "lavfi", "-i", scene, "-f", "lavfi", "-i", "sine", "-t", "3", "-c:v", "libx264", tmp_path / "v.mp4")
    assert len(decode(tmp_path / "v.mp4", settings=dataclasses.replace(SETTINGS, keep_static=False)).frames) == 10


def test_file_without_read_permission_is_unreadable():
    code = (  # as another user, because root may read all files
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from configs.schema import DecodeConfig\n"
        "from pipelines.manifest import Clip, RejectedClip\n"
        "import pipelines.build.decode.clip as d, av\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: d.decode_clip(Clip(id='a', media='v.mp4'), Path(sys.argv[2]), DecodeConfig())\n"
        "except RejectedClip as error: print(error.reason, error.detail)"
    )
    with open_folder() as folder:
        write_video(folder / "v.mp4").chmod(0)
        done = subprocess.run([sys.executable, "-c", code, ROOT, folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "unreadable v.mp4: permission denied"


def test_audio_file_with_a_cover_image_has_no_video(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "cover.png")
    write_wav(tmp_path / "a.wav", silence_with_clicks(1.0, (0.2,), 16000))
    inputs = ["-i", tmp_path / "a.wav", "-i", tmp_path / "cover.png", "-map", "0", "-map", "1"]
    ffmpeg(*inputs, "-c:a", "flac", "-disposition:v", "attached_pic", tmp_path / "a.flac")
    assert reason(tmp_path / "a.flac") == "no_video"


def test_invalid_image_with_valid_audio_is_unreadable(tmp_path):
    wav = write_wav(tmp_path / "a.wav", silence_with_clicks(1.0, (0.2,), 16000))
    (tmp_path / "p.jpg").write_bytes(b"not an image")
    assert reason(wav, image="p.jpg") == "unreadable"
    assert reason(wav, image="none.jpg") == "missing"


def test_file_name_that_looks_like_a_url_or_a_pattern_is_opened_as_a_file(tmp_path):
    for name in ("concat:a%03d.mp4", "http:x.mp4", b"\xff\xfe.mp4".decode(errors="surrogateescape"), "é ü.mp4"):
        write_video(tmp_path / "v.mp4", duration_s=0.5).rename(tmp_path / name)
        assert decode(tmp_path / name).frames
