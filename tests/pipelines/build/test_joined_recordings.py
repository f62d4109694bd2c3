"""Files of several recordings, each with a clock of its own: the frames of one never get the audio of another."""

import dataclasses
from functools import cache

import pytest
from tiny_decode import SETTINGS, assert_in_step, decode, events_s, ffmpeg
from tiny_media import write_video

FINE = dataclasses.replace(SETTINGS, frames_per_clip=150, short_side_px=16)
EVENTS_S = {"long": (0.8, 2.2), "short": (0.4, 1.2, 2.0)}
DURATION_S = {"long": 3.0, "short": 2.4}
VP8 = "-c:v libvpx -b:v 500k -g 25"
CODECS = {
    "mkv": "-c copy",
    "webm": f"{VP8} -c:a libopus",
    "live.webm": f"{VP8} -c:a libopus -f webm -live 1",
    "ts": "-c copy",
    "vob": "-c:v mpeg2video -q:v 2 -c:a mp2 -f vob",
    "ogv": "-c:v libtheora -q:v 8 -c:a libvorbis",
    "flv": "-c copy",
    "mp4": "-c copy",
    "frag.mp4": "-c copy -movflags frag_keyframe+empty_moov",
    "avi": "-c:v mpeg4 -q:v 2 -c:a pcm_s16le",
    "wmv": "-c:v wmv2 -q:v 2 -c:a wmav2",
}


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A function that returns the bytes of a recording in a format, and with further options of ffmpeg."""
    folder = tmp_path_factory.mktemp("recordings")
    for name, times_s in EVENTS_S.items():
        write_video(folder / f"{name}.mkv", DURATION_S[name], fps=25, events_s=times_s, rate_hz=48000, gop=25)

    @cache
    def make(name: str, codec: str, *more: str) -> bytes:
        path = folder / f"{name}-{len(list(folder.iterdir()))}.{codec}"
        ffmpeg("-i", folder / f"{name}.mkv", *CODECS[codec].split(), *more, path)
        return path.read_bytes()

    return make


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("names", [("long", "short"), ("short", "long")])
def test_file_of_two_recordings_gives_the_first_one_in_step(tmp_path, recording, codec, names):
    path = tmp_path / f"v.{codec}"
    path.write_bytes(b"".join(recording(name, codec) for name in names))
    decoded = decode(path, settings=FINE)
    assert_in_step(decoded, [event_s for event_s in EVENTS_S[names[0]] if event_s < decoded.end_s - 0.1])
    assert decoded.end_s == pytest.approx(DURATION_S[names[0]], abs=0.7)


@pytest.mark.parametrize("codec", ["mkv", "webm", "frag.mp4"])
def test_decord_never_mixes_recordings(tmp_path, recording, codec):
    path = tmp_path / f"v.{codec}"
    path.write_bytes(recording("short", codec) + recording("long", codec))
    assert_in_step(decode(path, settings=dataclasses.replace(FINE, decoder="decord")), EVENTS_S["short"])


@pytest.mark.parametrize("codec", ["webm", "ts", "live.webm"])
def test_segment_across_the_jump_ends_there(tmp_path, recording, codec):
    path = tmp_path / f"v.{codec}"
    path.write_bytes(recording("short", codec) + recording("long", codec))
    decoded = decode(path, 1.0, 2.8, settings=FINE)
    assert_in_step(decoded, [0.2, 1.0])
    assert decoded.end_s == pytest.approx(2.4, abs=0.1)


@pytest.mark.parametrize(("offset_s", "flashes"), [(2.0, 3), (2.6, 5), (4.0, 5), (50.0, 3)])
def test_transport_stream_whose_clock_jumps_stays_in_step(tmp_path, recording, offset_s, flashes):
    path = tmp_path / "v.ts"
    path.write_bytes(recording("short", "ts") + recording("long", "ts", "-output_ts_offset", str(offset_s)))
    flashes_s, clicks_s = events_s(decode(path, settings=FINE))
    assert flashes_s == pytest.approx(clicks_s, abs=0.08) and len(flashes_s) == flashes
    assert flashes_s[:3] == pytest.approx(EVENTS_S["short"], abs=0.08)


def test_second_recording_without_audio_or_of_another_codec_is_left_out(tmp_path, recording):
    first = recording("short", "ts")
    for number, more in enumerate((("-an",), ("-c:v", "mpeg2video", "-c:a", "mp2"), ("-ar", "32000", "-c:a", "aac"))):
        path = tmp_path / f"{number}.ts"
        path.write_bytes(first + recording("long", "ts", *more))
        assert_in_step(decode(path, settings=FINE), EVENTS_S["short"])
