"""Which channel of the audio is stored, and what the reject of a silent clip says about other channels and tracks."""

import json
from contextlib import nullcontext
from dataclasses import replace

import av
import numpy as np
import pytest
from tiny_builds import OURS
from tiny_decode import SETTINGS, click_s, decode, ffmpeg
from tiny_media import silence_with_clicks, write_video

from configs.errors import CommandFailed
from configs.load import load
from configs.schema import BuildConfig
from pipelines.build.__main__ import main
from pipelines.manifest import RejectedClip

RATE_HZ = 48000
SILENCE = np.zeros(2 * RATE_HZ, np.float32)
AT_HALF, AT_LATE = (silence_with_clicks(2.0, (time_s,), RATE_HZ) for time_s in (0.5, 1.5))


def video(path, *channels, codec="pcm_s16le", layout="stereo"):
    return write_video(path, waveform=np.stack(channels), layout=layout, rate_hz=RATE_HZ, audio_codec=codec)


def waveform(path, channel):
    return decode(path, settings=replace(SETTINGS, channel=channel))


@pytest.mark.parametrize(("codec", "ending"), [("pcm_s16le", "mkv"), ("aac", "mp4")])
@pytest.mark.parametrize(
    ("left", "right", "expected_s"),
    [
        (AT_HALF, AT_LATE, 0.5),
        (0.95 * AT_HALF, AT_LATE, 0.5),
        (0.5 * AT_HALF, AT_LATE, 1.5),
        (SILENCE, AT_LATE, 1.5),
        (AT_HALF, SILENCE, 0.5),
    ],
)
def test_loudest_is_the_first_channel_unless_another_is_louder_by_a_decibel(
    tmp_path, codec, ending, left, right, expected_s
):
    path = video(tmp_path / f"v.{ending}", left, right, codec=codec)
    assert click_s(waveform(path, "loudest")) == pytest.approx(expected_s, abs=0.025)


def test_loudest_and_mix_of_six_channels(tmp_path):
    path = video(tmp_path / "v.mkv", *[SILENCE] * 5, AT_LATE, layout="5.1")
    loudest, mix = waveform(path, "loudest").waveform, waveform(path, "mix").waveform
    assert np.allclose(mix, loudest / 6, atol=1e-4) and np.abs(loudest).max() > 0.5


@pytest.mark.parametrize("channel", ["first", "mix", "loudest"])
def test_mono_is_the_same_for_every_choice(tmp_path, channel):
    path = write_video(tmp_path / "v.mp4", events_s=(0.5,))
    assert np.array_equal(waveform(path, channel).waveform, decode(path).waveform)


@pytest.mark.parametrize(("first", "second"), [("mono", "stereo"), ("stereo", "mono")])
def test_stream_that_changes_its_number_of_channels_is_read_to_its_end(tmp_path, first, second):
    path = tmp_path / "v.ts"
    for name, layout in (("a", first), ("b", second)):
        channels = np.stack([AT_HALF] * (1 if layout == "mono" else 2))
        video(tmp_path / f"{name}.mkv", *channels, codec="aac", layout=layout)
    for name, offset_s in (("a", 0), ("b", 2)):
        ffmpeg(
            "-i", tmp_path / f"{name}.mkv", "-c", "copy", "-output_ts_offset", str(offset_s), tmp_path / f"{name}.ts"
        )
    path.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    for channel in ("first", "loudest", "mix"):
        decoded = waveform(path, channel)
        loud = np.flatnonzero(np.abs(decoded.waveform) > 0.3) / 16000
        assert loud[0] == pytest.approx(0.53, abs=0.06) and loud[-1] == pytest.approx(2.56, abs=0.06)


@pytest.mark.parametrize(
    ("channel", "left", "right", "detail"),
    [
        ("first", SILENCE, AT_LATE, "peak 0.0e+00; channel 2 has sound: set decode.channel=loudest"),
        ("mix", AT_LATE, -AT_LATE, "; channel 1 has sound: set decode.channel=loudest"),
        ("loudest", SILENCE, SILENCE, "peak 0.0e+00"),
    ],
)
def test_reject_of_a_silent_clip_names_the_channel_that_has_sound(tmp_path, channel, left, right, detail):
    path = video(tmp_path / "v.mkv", left, right)
    with pytest.raises(RejectedClip) as raised:
        waveform(path, channel)
    assert raised.value.reason == "silent" and raised.value.detail.endswith(detail)


def test_reject_of_a_silent_clip_names_the_track_that_has_sound(tmp_path):
    silent, loud = video(tmp_path / "a.mkv", SILENCE, SILENCE), video(tmp_path / "b.mkv", SILENCE, AT_LATE)
    ffmpeg("-i", silent, "-i", loud, "-map", "0", "-map", "1:a", "-c", "copy", tmp_path / "v.mkv")
    with av.open(str(tmp_path / "v.mkv")) as container:
        assert len(container.streams.audio) == 2
    with pytest.raises(RejectedClip) as raised:
        waveform(tmp_path / "v.mkv", "loudest")
    assert raised.value.reason == "silent"
    assert raised.value.detail == (
        "peak 0.0e+00; audio track 2 of 2 has sound, but the first is used: remove the others"
    )


@pytest.mark.parametrize(
    ("words", "written", "stored"),
    [([], 1, "loudest"), (["decode.channel=first"], 0, None), (["decode.channel=mix"], 1, "mix")],
)
def test_own_folder_takes_the_loudest_channel_and_first_keeps_its_hash(tmp_path, words, written, stored):
    video(tmp_path / "root/v.mkv", SILENCE, AT_LATE)
    out = tmp_path / "out"
    with nullcontext() if written else pytest.raises(CommandFailed, match="no clip could be used"):
        main(load(BuildConfig, [f"source.root={tmp_path}/root", f"out={out}", *OURS, *words]))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["written"] == written
    assert manifest["settings"]["decode"].get("channel") == stored


@pytest.mark.parametrize(
    ("name", "channel"),
    [
        ("audioset", "first"),
        ("places_audio", "first"),
        ("folder", "loudest"),
        ("vggsound", "loudest"),
        ("toy", "first"),
    ],
)
def test_published_configurations_take_the_channel_of_the_reference(name, channel):
    assert load(BuildConfig, [f"config=configs/build/{name}.yaml"]).decode.channel == channel
