"""The frames and the audio of one decoded clip."""

import dataclasses

import av
import numpy as np
import pytest
import soundfile
from PIL import Image
from tiny_decode import SETTINGS, click_s, decode, ffmpeg, flash_s, frame_numbers, reason
from tiny_media import silence_with_clicks, write_video, write_wav

from configs.schema import DecodeConfig
from pipelines.build.decode.clip import FrameConverter


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """10 s at 10 frames per second, a keyframe each second, a flash and a click at 4.4 s."""
    return write_video(tmp_path_factory.mktemp("media") / "v.mp4", duration_s=10.0, events_s=(4.4,))


def test_frames_are_on_screen_at_the_midpoints_of_ten_equal_parts(tmp_path):
    decoded = decode(write_video(tmp_path / "v.mp4", duration_s=4.0))
    # 0.2 s, 0.6 s, ...: the middle of part n is (n + 0.5) * 0.4 s
    assert frame_numbers(decoded) == [2, 6, 10, 14, 18, 22, 26, 30, 34, 38]
    assert np.allclose(decoded.frame_times_s, np.array([2, 6, 10, 14, 18, 22, 26, 30, 34, 38]) / 10)
    assert [frame.shape for frame in decoded.frames] == [(48, 64, 3)] * 10
    assert decoded.frames[0].dtype == np.uint8
    assert (decoded.fps, decoded.decoder, decoded.decoder_version) == (10.0, "pyav", av.__version__)


def test_segment_that_starts_between_keyframes_has_exact_frames_and_audio(video):
    decoded = decode(video, 3.3, 5.3)
    assert np.allclose(decoded.frame_times_s, [0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9])
    assert flash_s(decoded) == pytest.approx(1.1) and frame_numbers(decoded) == [34, 36, 38, 40, 42, 46, 48, 0, 2]
    assert click_s(decoded) == pytest.approx(1.1, abs=0.005)
    assert decoded.waveform.shape == (32000,) and decoded.waveform.dtype == np.float32
    assert (decoded.start_s, decoded.end_s) == (3.3, 5.3)


@pytest.mark.parametrize(
    ("name", "rate_hz", "delays"),
    [
        ("v.mp4", 16000, {}),
        ("v.mkv", 44100, {}),
        ("v.mkv", 48000, {"audio_delay_s": 0.5}),
        ("v.mkv", 16000, {"video_delay_s": 0.5}),
        ("v.ts", 32000, {}),
    ],
)
@pytest.mark.parametrize("start_s", [0.0, 1.15])
def test_simultaneous_flash_and_click_stay_in_sync(tmp_path, name, rate_hz, delays, start_s):
    settings = DecodeConfig(frames_per_clip=300, short_side_px=16)
    path = write_video(
        tmp_path / name, duration_s=4.0, fps=50, events_s=(2.0,), rate_hz=rate_hz, size_px=(32, 32), gop=25, **delays
    )
    decoded = decode(path, start_s, settings=settings)
    flash_after_s = delays.get("video_delay_s", 0) - delays.get("audio_delay_s", 0)
    assert flash_s(decoded) - click_s(decoded) == pytest.approx(flash_after_s, abs=0.025)
    # An MPEG transport stream starts with the 1024 priming samples of the audio codec, 32 ms before audio and video.
    priming_s = 0.032 if name == "v.ts" else 0.0
    assert click_s(decoded) == pytest.approx(2.0 - start_s + delays.get("audio_delay_s", 0) + priming_s, abs=0.025)


def test_audio_that_starts_late_is_padded_with_silence(tmp_path):
    decoded = decode(write_video(tmp_path / "v.mkv", audio_delay_s=0.5, audio_codec="pcm_s16le"))
    assert not decoded.waveform[:7900].any() and decoded.waveform[8100:9000].any()


def test_gap_in_the_audio_becomes_silence(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for first, level in ((0, 1000), (24000, 3000)):
            frame = av.AudioFrame.from_ndarray(np.full((1, 8000), level, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, first
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    waveform = decode(path, image="p.png").waveform * 2**15
    assert [waveform[at] for at in (100, 7900, 8100, 23900, 24100, 31900)] == [1000, 1000, 0, 0, 3000, 3000]
    assert len(waveform) == 32000


def test_waveform_is_the_first_channel(tmp_path):
    rate_hz = 48000
    left, right = silence_with_clicks(2.0, (0.5,), rate_hz), silence_with_clicks(2.0, (1.5,), rate_hz)
    decoded = decode(
        write_video(
            tmp_path / "v.mkv",
            waveform=np.stack([left, right]),
            layout="stereo",
            rate_hz=rate_hz,
            audio_codec="pcm_s16le",
        )
    )
    assert click_s(decoded) == pytest.approx(0.5, abs=0.002)
    assert np.abs(decoded.waveform[23000:26000]).max() < 0.1


@pytest.mark.parametrize(
    ("rate_hz", "layout", "channels"), [(8000, "mono", 1), (11025, "mono", 1), (96000, "stereo", 2), (48000, "5.1", 6)]
)
def test_other_rates_and_channel_layouts_give_the_same_tone(tmp_path, rate_hz, layout, channels):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate_hz) / rate_hz).astype(np.float32)
    path = write_video(
        tmp_path / "v.mkv",
        waveform=np.stack([tone] + [0 * tone] * (channels - 1)),
        layout=layout,
        rate_hz=rate_hz,
        audio_codec="pcm_s16le",
    )
    decoded = decode(path)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
    assert decoded.waveform.shape == (32000,)
    assert np.abs(decoded.waveform - expected)[200:-200].max() < 0.01


def test_wav_and_image_give_one_frame_at_zero(tmp_path):
    wav = write_wav(tmp_path / "a.wav", silence_with_clicks(1.0, (0.25,), 16000))
    Image.new("RGB", (300, 100), (10, 20, 30)).save(tmp_path / "p.png")
    decoded = decode(wav, image="p.png")
    assert [frame.shape for frame in decoded.frames] == [(48, 144, 3)]
    assert decoded.frames[0][0, 0].tolist() == [10, 20, 30]
    assert (decoded.frame_times_s, decoded.fps) == ([0.0], 0.0)
    assert np.array_equal(decoded.waveform * 32768, soundfile.read(wav, dtype="int16")[0])


def test_video_of_one_frame_has_one_frame(tmp_path):
    decoded = decode(write_video(tmp_path / "v.mp4", frame_numbers=[0]))
    assert frame_numbers(decoded) == [0] and decoded.frame_times_s == [0.0]


def test_identical_consecutive_frames_are_stored_once(tmp_path):
    path = tmp_path / "v.mkv"
    write_video(path, events_s=tuple(n / 10 for n in range(20)), waveform=silence_with_clicks(2.0, (0.5,), 16000)[None])
    assert len(decode(path).frames) == 1


def test_variable_frame_rate_gives_the_frames_on_screen(tmp_path):
    decoded = decode(write_video(tmp_path / "v.mkv", duration_s=2.0, frame_numbers=[0, 1, 2, 13, 14, 19]))
    assert frame_numbers(decoded) == [1, 2, 13, 14, 19]  # on screen at 0.1, 0.3 ... 1.1, 1.3, 1.5 and 1.7, 1.9
    assert np.allclose(decoded.frame_times_s, [0.1, 0.2, 1.3, 1.4, 1.9])


def test_large_frames_are_downscaled_and_small_ones_are_not_upscaled(tmp_path):
    assert decode(write_video(tmp_path / "l.mp4", size_px=(192, 108))).frames[0].shape == (48, 85, 3)
    assert decode(write_video(tmp_path / "s.mp4", size_px=(40, 30))).frames[0].shape == (30, 40, 3)
    assert decode(write_video(tmp_path / "o.mkv", size_px=(101, 55))).frames[0].shape == (48, 88, 3)


@pytest.mark.parametrize("size_px", [(64, 48), (160, 120)])
def test_colors_of_the_video_are_preserved(size_px):
    errors = []
    for luma in range(40, 220, 5):
        frame = av.VideoFrame(*size_px, "yuv420p")
        for plane, value in zip(frame.planes, (luma, 110, 150), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        luma_part = 255 / 219 * (luma - 16)  # ITU-R BT.601, limited range
        expected = np.array([luma_part + 1.596 * 22, luma_part - 0.392 * -18 - 0.813 * 22, luma_part + 2.017 * -18])
        if expected.min() >= 0 and expected.max() <= 255:
            errors.append(FrameConverter(None, 48)(frame)[20, 30] - expected)
    assert len(errors) > 20
    assert abs(np.mean(errors)) < 0.1 and np.abs(errors).max() < 0.6


def test_rotated_video_is_decoded_upright(tmp_path):
    path = write_video(tmp_path / "v.mp4", size_px=(64, 48))
    corner, rotated, shown = tmp_path / "corner.mp4", tmp_path / "rotated.mp4", tmp_path / "shown.png"
    white_top_left = "drawbox=x=0:y=0:w=32:h=24:color=white:t=fill"
    ffmpeg("-i", path, "-vf", white_top_left, "-c:v", "libx264", "-c:a", "copy", corner)
    ffmpeg("-display_rotation", "90", "-i", corner, "-c", "copy", rotated)
    ffmpeg("-i", rotated, "-frames:v", "1", shown)
    expected = np.asarray(Image.open(shown).convert("RGB"))
    frame = decode(rotated, settings=DecodeConfig(short_side_px=48, min_duration_s=0.3)).frames[0]
    assert frame.shape == expected.shape == (64, 48, 3)
    corners = ((5, 5), (5, 42), (58, 5), (58, 42))
    bright = [bool((frame[corner] > 200).all()) for corner in corners]
    assert bright == [bool((expected[corner] > 200).all()) for corner in corners]
    assert sum(bright) == 1


def test_segment_is_truncated_to_the_file_and_rejected_after_its_end(video):
    decoded = decode(video, 8.0, 18.0)
    assert decoded.end_s == pytest.approx(10.0, abs=0.1) and len(decoded.waveform) == pytest.approx(32000, abs=1600)
    assert reason(video, start_s=11.0, end_s=21.0) == "outside_file"
    assert reason(video, start_s=9.9, end_s=19.9) == "too_short"


def test_long_clip_is_truncated_to_the_maximum_duration(video):
    decoded = decode(video, 2.0, settings=DecodeConfig(max_duration_s=3.0))
    assert (decoded.start_s, decoded.end_s, len(decoded.waveform)) == (2.0, 5.0, 48000)


def test_file_without_stated_duration_is_read_to_its_end(tmp_path, video):
    ffmpeg("-i", video, "-c:v", "libvpx", "-c:a", "libvorbis", "-f", "webm", "-live", "1", tmp_path / "live.webm")
    with av.open(str(tmp_path / "live.webm")) as container:
        assert not container.duration
    decoded = decode(tmp_path / "live.webm", 3.3, settings=dataclasses.replace(SETTINGS, frames_per_clip=67))
    assert np.allclose(decoded.frame_times_s, np.arange(67) / 10, atol=0.11)
    assert (decoded.start_s, decoded.end_s) == (3.3, pytest.approx(10.0, abs=0.02))
    assert flash_s(decoded) - click_s(decoded) == pytest.approx(0, abs=0.1)
    assert reason(tmp_path / "live.webm", start_s=11.0) == "outside_file"
    assert reason(tmp_path / "live.webm", start_s=9.9) == "too_short"


def test_stream_that_starts_mid_gop_is_decoded_from_its_first_keyframe(tmp_path):
    full = write_video(tmp_path / "v.ts", duration_s=6.0)
    (tmp_path / "mid.ts").write_bytes(full.read_bytes()[full.stat().st_size // 3 :])
    decoded = decode(tmp_path / "mid.ts")
    assert len(decoded.frames) == 10 and 3.5 < decoded.end_s < 4.5


def test_audio_of_a_video_file_beside_an_image(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    decoded = decode(write_video(tmp_path / "v.mkv", events_s=(0.5,)), image="p.png")
    assert click_s(decoded) == pytest.approx(0.5, abs=0.01) and len(decoded.frames) == 1
