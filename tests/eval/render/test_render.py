"""Rendered videos: decoded again, they have the times and the sound of their source and show the known maps."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_decode import ffmpeg
from tiny_maps import decoded, flashes_and_clicks, red_and_blue, write_halves
from tiny_media import silence_with_clicks, write_video, write_wav

from configs.errors import UsageError
from eval.inference.video_reader import VideoReader
from eval.render.decorations import Caption
from eval.render.render import render_image, render_video


@pytest.fixture
def halves(tmp_path):
    return write_halves(tmp_path / "in.mp4")


def sides(frames):
    """Mean colors of the left and the right half of frames, without the color scale: [N, 2, 3]."""
    upper = frames[:, : frames.shape[1] // 2]
    middle = upper.shape[2] // 2
    return np.stack(
        [upper[:, :, : middle - 40].mean(axis=(1, 2)), upper[:, :, middle + 40 :].mean(axis=(1, 2))], axis=1
    )


def test_heatmap_follows_the_sound_on_one_scale(tmp_path, halves):
    times_s, frames, sound, rate_hz = decoded(render_video(red_and_blue(), halves, tmp_path / "out.mp4").path)
    assert times_s[:20] == pytest.approx(np.arange(20) / 10, abs=1e-3) and frames[0].shape == (192, 384, 3)
    both = sides(frames).sum(axis=2)
    assert both[11:14].min() > both[:9].max() + 150 and both[11:14].min() > both[16:].max() + 150
    loud_s = np.flatnonzero(np.abs(sound) > 0.3) / rate_hz
    assert loud_s[[0, -1]] == pytest.approx([1.0, 1.5], abs=0.03) and len(sound) / rate_hz == pytest.approx(2, abs=0.1)


def test_each_head_has_its_color(tmp_path, halves):
    shown = decoded(render_video(red_and_blue(), halves, tmp_path / "out.mp4", view="heads").path)[1]
    left, right = sides(shown)[12]
    assert left[0] > left[2] + 60 and right[2] > right[0] + 60  # orange where it is red, sky blue where it is blue


@pytest.mark.parametrize("head", [0, 1])
def test_one_head_is_shown_where_it_responds(tmp_path, halves, head):
    shown = decoded(render_video(red_and_blue(), halves, tmp_path / "out.mp4", view="head", head=head).path)[1]
    light = sides(shown)[12].sum(axis=1)
    assert light[head] > light[1 - head] + 150


def test_side_by_side_shows_the_frame_and_the_heatmap(tmp_path, halves):
    shown = decoded(render_video(red_and_blue(), halves, tmp_path / "out.mp4", view="side_by_side").path)[1]
    assert shown.shape[1:] == (192, 768, 3)
    assert np.abs(shown[12, 20:80, 20:80].mean(axis=(0, 1)) - (200, 0, 0)).max() < 15
    assert shown[12, 20:80, 420:480].sum() > 1.4 * shown[5, 20:80, 420:480].sum()


def test_features_and_audio_have_a_strip_with_a_cursor(tmp_path, halves):
    for view in ("features", "audio"):
        shown = decoded(render_video(red_and_blue(), halves, tmp_path / "out.mp4", view=view).path)[1]
        assert shown.shape[1:] == (192 + 48, 384, 3)
        cursors = shown[:20, 193:200].mean(axis=(1, 3)).argmax(axis=1)
        with VideoReader(halves) as source:
            assert cursors == pytest.approx(np.arange(20) / 10 / source.duration_s * 384, abs=3)
        left, right = sides(shown[:, :192])[12]
        if view == "audio":
            assert np.abs(left - (200, 0, 0)).max() < 15 and np.abs(right - (0, 0, 200)).max() < 15
        else:
            assert np.abs(left - right).max() > 60
        loudness = (shown[12, 192:224] > 120).all(axis=2).sum(axis=0)
        assert loudness[210:280].mean() > 3 * loudness[20:180].mean()


def test_captions_show_the_word_of_each_time(tmp_path, halves):
    words = [Caption("one", 0.2, 0.6), Caption("two", 0.6, 0.9)]
    plain = decoded(render_video(red_and_blue(), halves, tmp_path / "a.mp4").path)[1].astype(int)
    shown = decoded(render_video(red_and_blue(), halves, tmp_path / "b.mp4", captions=words).path)[1].astype(int)
    changed = np.abs(shown - plain).max(axis=(1, 2, 3)) > 80
    assert changed[3:9].all() and not changed[:2].any() and not changed[11:].any()
    yellow = (shown[..., 0] > 180) & (shown[..., 1] > 150) & (shown[..., 2] < 130)
    first, second = (np.flatnonzero(yellow[number].any(axis=0)).mean() for number in (3, 7))
    assert first < second


SOURCES = {
    "mp4": ("a.mkv", "-c copy -f mp4"),
    "later clock": ("a.mkv", "-c copy -output_ts_offset 100 -f matroska"),
    "transport stream": ("a.mkv", "-c copy -f mpegts"),
    "longer subtitles": ("a.mkv", "-i {folder}/s.srt -map 0 -map 1 -c copy -f matroska"),
    "one frame per second": ("slow.mp4", "-c copy -f mp4"),
    "60 frames per second": ("fast.mp4", "-c copy -f mp4"),
    "variable frame rate": ("vfr.mkv", "-c copy -f matroska"),
    "piped": ("a.mkv", "-c copy -f matroska -live 1"),
    "mp3 in avi": ("a.mkv", "-c:v mpeg4 -q:v 2 -c:a libmp3lame -f avi"),
    "video starts later": ("late.mkv", "-c copy -f matroska"),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    write_video(folder / "a.mkv", 3.0, fps=25, events_s=(0.8, 2.2), rate_hz=48000)
    write_video(folder / "fast.mp4", 3.0, fps=60, events_s=(0.8, 2.2), rate_hz=48000)
    numbers = [*range(0, 30, 3), *range(30, 75)]
    sound = silence_with_clicks(3.0, (0.84, 2.2), 48000)[None]
    write_video(folder / "vfr.mkv", 3.0, 25, (64, 48), (0.84, 2.2), sound, 48000, frame_numbers=numbers)
    sound = silence_with_clicks(6.0, (2.0,), 48000)[None]
    write_video(folder / "slow.mp4", 6.0, fps=1, waveform=sound, events_s=(2.0,), rate_hz=48000)
    sound = silence_with_clicks(3.0, (0.8 + 0.4,), 48000)[None]
    write_video(folder / "late.mkv", 2.4, 25, (64, 48), (0.8,), sound, 48000, video_delay_s=0.4)
    (folder / "s.srt").write_text("1\n00:00:00,500 --> 00:00:09,500\nhello\n")
    return folder


@pytest.mark.parametrize("kind", SOURCES)
def test_flash_and_click_are_in_step_within_40_ms(tmp_path, sources, kind):
    source, options = SOURCES[kind]
    ffmpeg("-i", sources / source, *options.format(folder=sources).split(), tmp_path / "in")
    out = render_video(red_and_blue(), tmp_path / "in", tmp_path / "out.mp4", view="side_by_side").path
    expected_s = {"one frame per second": [2.0], "variable frame rate": [0.84, 2.2], "video starts later": [1.2]}
    flashes_s, clicks_s = flashes_and_clicks(out)
    assert flashes_s == pytest.approx(expected_s.get(kind, [0.8, 2.2]), abs=0.05)
    assert clicks_s == pytest.approx(flashes_s, abs=0.04)
    with VideoReader(tmp_path / "in") as before, VideoReader(out) as after:
        assert after.duration_s == pytest.approx(before.duration_s, abs=1 / before.fps + 0.001)
        assert after.fps == pytest.approx(max(10, min(before.fps, 30)), rel=0.5)


@pytest.mark.parametrize(
    ("layout", "rate_hz", "codec", "is_copied"),
    [
        ("mono", 16000, "aac", True),
        ("stereo", 48000, "aac", True),
        ("stereo", 44100, "pcm_s16le", False),
        ("5.1", 48000, "pcm_s16le", False),
        ("mono", 96000, "pcm_s16le", False),
    ],
)
def test_sound_is_copied_or_becomes_aac(tmp_path, layout, rate_hz, codec, is_copied):
    sound = silence_with_clicks(1.0, (0.5,), rate_hz)[None].repeat({"mono": 1, "stereo": 2, "5.1": 6}[layout], axis=0)
    write_video(tmp_path / "in.mkv", 1.0, waveform=sound, rate_hz=rate_hz, layout=layout, audio_codec=codec)
    out = render_video(red_and_blue(), tmp_path / "in.mkv", tmp_path / "out.mp4").path
    packets = []
    for path in (tmp_path / "in.mkv", out):
        with av.open(str(path)) as container:
            packets.append([bytes(packet) for packet in container.demux(audio=0) if packet.size])
            context = container.streams.audio[0].codec_context
    assert (packets[0] == packets[1]) == is_copied
    assert context.name == "aac" and context.layout.nb_channels == (1 if layout == "mono" else 2)
    assert context.sample_rate == (rate_hz if is_copied or rate_hz == 44100 else 48000)
    _, _, heard, heard_hz = decoded(out)
    assert np.argmax(np.abs(heard) > 0.3) / heard_hz == pytest.approx(0.5, abs=0.01)


def test_file_is_made_for_browsers(tmp_path, halves):
    data = render_video(red_and_blue(), halves, tmp_path / "out.mp4").path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "out.mp4")) as container:
        video = container.streams.video[0].codec_context
        assert (video.name, video.pix_fmt, container.streams.audio[0].codec_context.name) == ("h264", "yuv420p", "aac")


@pytest.mark.parametrize("size_px", [(385, 217), (2, 200), (64, 64)])
def test_odd_and_extreme_sizes(tmp_path, size_px):
    write_video(tmp_path / "in.mkv", 0.5, size_px=size_px, events_s=(0.2,))
    shown = decoded(render_video(red_and_blue(), tmp_path / "in.mkv", tmp_path / "out.mp4").path)[1]
    height_px, width_px = shown.shape[1:3]
    assert len(shown) == 5 and width_px / height_px == pytest.approx(size_px[0] / size_px[1], rel=0.05)
    assert 384 <= width_px <= 400 or max(width_px, height_px) > 900


def test_rotated_video_is_shown_upright(tmp_path, halves):
    ffmpeg("-display_rotation", "90", "-i", halves, "-c", "copy", tmp_path / "turned.mp4")
    shown = decoded(render_video(red_and_blue(), tmp_path / "turned.mp4", tmp_path / "out.mp4", view="audio").path)[1]
    with VideoReader(tmp_path / "turned.mp4") as source:
        upright = next(source.frames())[1]
    assert shown.shape[1:3] == (768 + 48, 384)
    assert np.abs(shown[0, 100].mean(axis=0) - upright[12].mean(axis=0)).max() < 15
    assert np.abs(shown[0, 700].mean(axis=0) - upright[88].mean(axis=0)).max() < 15


def test_file_without_sound_is_shown_by_its_features(tmp_path):
    write_video(tmp_path / "in.mp4", 0.5, audio=False)
    done = render_video(red_and_blue(), tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert done.view == "features" and "it has no audio" in done.note and "\n" not in done.note
    times_s, shown, sound, _ = decoded(done.path)
    assert len(times_s) == 5 and shown.shape[1:] == (288, 384, 3) and not len(sound)


def test_file_without_frames_is_shown_by_its_sound(tmp_path):
    write_video(tmp_path / "in.mp4", 1.0, video=False, events_s=(0.5,))
    done = render_video(red_and_blue(), tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert done.view == "audio" and "it has no frames" in done.note
    times_s, shown, sound, rate_hz = decoded(done.path)
    assert (
        times_s[-1] > 0.9
        and shown[0, :300].mean() < 10
        and np.argmax(sound > 0.3) / rate_hz == pytest.approx(0.5, abs=0.03)
    )


def test_silent_sound_is_noted(tmp_path):
    write_video(tmp_path / "in.mp4", 0.5, waveform=np.zeros((1, 8000), np.float32))
    assert "its audio is silent" in render_video(red_and_blue(), tmp_path / "in.mp4", tmp_path / "out.mp4").note


def test_image_and_sound_become_a_video_or_a_picture(tmp_path):
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:, :48, 0] = 200
    Image.fromarray(picture).save(tmp_path / "a.png")
    sound = np.where(np.arange(16000) < 8000, 0, 0.5).astype(np.float32)
    write_wav(tmp_path / "a.wav", sound)
    for image, audio in ((tmp_path / "a.png", tmp_path / "a.wav"), (picture, (sound, 16000))):
        times_s, shown, heard, _ = decoded(render_image(red_and_blue(), image, audio, tmp_path / "o.mp4").path)
        assert len(times_s) == 25 and times_s[-1] == pytest.approx(0.96, abs=0.01) and len(heard)
        both = sides(shown).sum(axis=2)
        assert both[20, 0] > both[5, 0] + 150 and both[20, 0] > both[20, 1] + 150
    for view in ("heatmap", "heads", "side_by_side", "features", "audio"):
        drawn = render_image(red_and_blue(), picture, (sound, 16000), tmp_path / "o.png", view).path
        height_px = 240 if view in ("features", "audio") else 192
        assert np.array(Image.open(drawn)).shape == (height_px, 768 if view == "side_by_side" else 384, 3)


def test_rendering_keeps_the_random_state_and_the_reader(tmp_path, halves):
    before = torch.random.get_rng_state()
    with VideoReader(halves, max_duration_s=5) as reader:
        render_video(red_and_blue(), reader, tmp_path / "out.mp4")
        assert next(reader.frames())[1].shape == (48, 96, 3)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"view": "head", "head": 2}, "head=2 is not a head of the model; view=head allows 0 to 1"),
        ({"view": "head"}, "head=None"),
        ({"upsampler": "magic"}, "upsampler=magic: allowed are bilinear"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, halves, arguments, message):
    with pytest.raises(UsageError, match=message):
        render_video(red_and_blue(), halves, tmp_path / "out.mp4", **arguments)
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    "name",
    ["a:b", "-v", "a%03d", "a\nb", "concat:a|b", "file:x", "http:x", os.fsdecode(b"\xff\xfe"), "[a]*?'\"", " a"],
)
def test_video_and_output_may_have_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "in.mp4", 0.3).rename(f"{name}.mp4")
    out = render_video(red_and_blue(), Path(f"{name}.mp4"), Path(f"{name} out.mp4")).path
    assert len(decoded(out)[0]) == 3
    assert sorted(tmp_path.iterdir()) == sorted(tmp_path / file for file in (f"{name}.mp4", f"{name} out.mp4"))
