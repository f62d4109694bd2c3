"""Videos as cameras, recorders and discs write them: decoded, with picture and sound in step."""

import dataclasses

import pytest
from tiny_decode import SETTINGS, click_s, decode, ffmpeg, flash_s
from tiny_media import write_video

from pipelines.sources.folder import ENDINGS

MPEG2 = ("-c:v", "mpeg2video", "-c:a", "mp2")
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac")
AVCHD = ("-c:v", "libx264", "-preset", "ultrafast", "-c:a", "ac3", "-f", "mpegts", "-mpegts_m2ts_mode", "1")
FORMATS = {
    "00001.MTS": AVCHD,
    "a.m2ts": AVCHD,
    "a.m2t": (*MPEG2, "-f", "mpegts"),
    "VTS_01_1.VOB": ("-c:v", "mpeg2video", "-c:a", "ac3", "-f", "vob"),
    "a.mod": (*MPEG2, "-f", "mpeg"),
    "a.tod": (*MPEG2, "-f", "mpegts"),
    "a.dv": ("-target", "pal-dv"),
    "a.mxf": ("-c:v", "mpeg2video", "-c:a", "pcm_s16le"),
    "a.gxf": ("-c:v", "mpeg2video", "-c:a", "pcm_s16le"),
    "a.f4v": (*H264, "-f", "mp4"),
    "a.asf": ("-c:v", "msmpeg4", "-c:a", "wmav2"),
    "a.dvr-ms": (*MPEG2, "-f", "asf"),
    "a.divx": ("-c:v", "mpeg4", "-c:a", "mp3", "-f", "avi"),
    "a.rmvb": ("-c:v", "rv20", "-s", "352x288", "-c:a", "ac3", "-f", "rm"),
    "a.3g2": H264,
    "a.qt": (*H264, "-f", "mov"),
    "a.wtv": MPEG2,
    "a.nut": H264,
    "a.amv": ("-c:v", "amv", "-c:a", "adpcm_ima_amv", "-ar", "22050", "-block_size", "882", "-strict", "-1"),
}


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """2 s of PAL video with a flash and a click at 1 s."""
    path = tmp_path_factory.mktemp("camera") / "source.mkv"
    return write_video(
        path, fps=25, size_px=(720, 576), events_s=(1.0,), rate_hz=48000, audio_codec="pcm_s16le", gop=25
    )


@pytest.mark.parametrize("name", FORMATS)
def test_video_of_a_camera_is_in_step(tmp_path, recording, name):
    ffmpeg("-i", recording, *FORMATS[name], tmp_path / name)
    decoded = decode(tmp_path / name, settings=dataclasses.replace(SETTINGS, frames_per_clip=50))
    assert name.lower().endswith(ENDINGS)
    assert flash_s(decoded) - click_s(decoded) == pytest.approx(0, abs=0.08)
    assert decoded.decoder == "pyav" and decoded.end_s == pytest.approx(2.0, abs=0.15)
