"""Frames are rotated and mirrored as ffmpeg does, for every display matrix, whichever program decodes them."""

import dataclasses
import math
import struct

import numpy as np
import pytest
from PIL import Image
from tiny_decode import SETTINGS, decode, ffmpeg

IDENTITY = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
ORIENTATIONS = {
    "as stored": (1, 0, 0, 1),
    "rotated by 90": (0, 1, -1, 0),
    "rotated by 180": (-1, 0, 0, -1),
    "rotated by 270": (0, -1, 1, 0),
    "mirrored left to right": (-1, 0, 0, 1),
    "mirrored top to bottom": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
    "scaled": (2, 0, 0, 2),
    "rotated by 90 and scaled": (0, 2, -2, 0),
    "mirrored and scaled": (-0.5, 0, 0, 1),
    "sheared": (1, 0.3, 0, 1),
    "all zeros": (0, 0, 0, 0),
} | {
    f"rotated by {degrees}": (math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle))
    for degrees in (0.7, 30, 89.4, 200, -30)
    for angle in [math.radians(degrees)]
}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A gray gradient with a white corner, 96x64; decord does not read 64x48."""
    path = tmp_path_factory.mktemp("media") / "v.mp4"
    scene = "nullsrc=s=128x96:r=5,geq=lum='30+X+Y/2':cb=128:cr=128,drawbox=w=40:h=20:color=white:t=fill"
    inputs = ["-f", "lavfi", "-i", scene, "-f", "lavfi", "-i", "sine"]
    ffmpeg(*inputs, "-t", "1", "-c:v", "libx264", "-qp", "0", "-c:a", "aac", path)
    return path


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_frames_are_shown_as_ffmpeg_shows_them(tmp_path, video, name):
    data = video.read_bytes()
    at = data.index(IDENTITY, data.index(b"tkhd"))
    a, b, c, d = (round(65536 * value) for value in ORIENTATIONS[name])
    path = tmp_path / "v.mp4"
    path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :])
    ffmpeg("-i", path, "-frames:v", "1", tmp_path / "shown.png")
    expected = np.asarray(Image.open(tmp_path / "shown.png").convert("RGB")).astype(int)
    for decoder in ("pyav", "decord"):
        frame = decode(path, settings=dataclasses.replace(SETTINGS, short_side_px=256, decoder=decoder)).frames[0]
        assert frame.shape == expected.shape
        assert np.abs(frame - expected).mean() < 4
