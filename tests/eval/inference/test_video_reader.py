"""Media of users are read in order and in time, with flat memory; hostile files end in one line."""

import struct

import av
import numpy as np
import pytest
import soundfile
from tiny_decode import SETTINGS, decode, ffmpeg
from tiny_media import gray, silence_with_clicks, write_video

from configs.errors import UsageError
from eval.inference.video_reader import VideoReader


def read(path, **limits):
    with VideoReader(path, **limits) as reader:
        blocks = list(reader.audio_blocks(16000, 1000))
        times_s, frames = zip(*reader.frames(), strict=True) if reader.has_video else ((), ())
        return reader, list(times_s), list(frames), np.concatenate([*blocks, np.zeros(0, np.float32)])


def click_s(sound):
    return np.argmax(np.abs(sound) > 0.4) / 16000


def test_frames_have_their_times_and_audio_its_place(tmp_path):
    path = write_video(tmp_path / "v.mp4", 2.0, events_s=(1.2,), rate_hz=48000)
    reader, times_s, frames, sound = read(path)
    assert times_s == pytest.approx(np.arange(20) / 10) and frames[0].shape == (48, 64, 3)
    assert [abs(frame.mean() - gray(number)) < 2 for number, frame in enumerate(frames) if number != 12] == [True] * 19
    assert frames[12].mean() > 240 and click_s(sound) == pytest.approx(1.2, abs=0.01)
    assert (reader.fps, reader.num_frames, reader.width_px, reader.height_px) == (10, 20, 64, 48)
    assert reader.duration_s == pytest.approx(2.0, abs=0.03) and len(sound) == pytest.approx(32000, abs=500)


def test_audio_is_that_of_the_build(tmp_path):
    path = write_video(tmp_path / "v.mkv", 2.0, events_s=(0.5,), rate_hz=44100, audio_codec="pcm_s16le")
    sound = read(path)[3]
    built = decode(path, settings=SETTINGS).waveform
    assert len(sound) >= len(built) and np.abs(sound[: len(built)] - built).max() < 1e-6


@pytest.mark.parametrize(("video_s", "audio_s"), [(0.5, 0.0), (0.0, 0.5)])
def test_start_offsets_are_kept(tmp_path, video_s, audio_s):
    path = write_video(tmp_path / "v.mkv", 2.0, events_s=(1.0,), video_delay_s=video_s, audio_delay_s=audio_s)
    _, times_s, frames, sound = read(path)
    flash_s = times_s[int(np.argmax([frame.mean() for frame in frames]))]
    assert flash_s == pytest.approx(1.0 + video_s) and click_s(sound) == pytest.approx(1.0 + audio_s, abs=0.02)


def test_variable_frame_rate_and_max_fps(tmp_path):
    path = write_video(tmp_path / "v.mkv", 2.0, fps=30, frame_numbers=[0, 1, 2, 3, 20, 21, 50])
    with VideoReader(path) as reader:
        assert [round(time_s * 30) for time_s, _ in reader.frames()] == [0, 1, 2, 3, 20, 21, 50]
        assert [round(time_s * 30) for time_s, _ in reader.frames(30)] == [0, 1, 2, 3, 20, 21, 50]
        assert [round(time_s * 30) for time_s, _ in reader.frames(10)] == [0, 3, 20, 21, 50]


def test_edit_list_hides_frames(tmp_path):
    write_video(tmp_path / "a.mp4", 3.0, events_s=(1.2,), gop=10, rate_hz=48000)
    ffmpeg("-ss", "0.55", "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "v.mp4")
    _, times_s, frames, sound = read(tmp_path / "v.mp4")
    flash_s = times_s[int(np.argmax([frame.mean() for frame in frames]))]
    assert flash_s == pytest.approx(0.65, abs=0.06) and click_s(sound) == pytest.approx(flash_s, abs=0.06)
    assert times_s[0] < 0.1 and frames[0].mean() > gray(4)


def test_rotation_and_odd_sizes(tmp_path):
    write_video(tmp_path / "a.mp4", 0.5, size_px=(65, 33))
    ffmpeg("-display_rotation", "90", "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "v.mp4")
    reader, _, frames, _ = read(tmp_path / "v.mp4")
    assert (reader.width_px, reader.height_px) == (33, 65) and frames[0].shape == (65, 33, 3)
    reader, _, frames, _ = read(tmp_path / "v.mp4", long_side_px=32)
    assert (reader.width_px, reader.height_px) == (16, 32) and frames[0].shape == (32, 16, 3)


def test_loudest_channel_is_read(tmp_path):
    sound = silence_with_clicks(1.0, (0.5,), 16000)
    path = write_video(tmp_path / "v.mkv", 1.0, waveform=np.stack([sound * 0, sound]), layout="stereo")
    assert click_s(read(path)[3]) == pytest.approx(0.5, abs=0.02)


def test_files_with_one_stream(tmp_path):
    reader, times_s, _, sound = read(write_video(tmp_path / "silent.mp4", 1.0, audio=False))
    assert reader.has_video and not reader.has_audio and len(times_s) == 10 and not len(sound)
    reader, times_s, _, sound = read(write_video(tmp_path / "sound.mp4", 1.0, video=False))
    assert reader.has_audio and not reader.has_video and not times_s and len(sound) == pytest.approx(16000, abs=1100)


def test_second_of_two_joined_recordings_is_not_read(tmp_path):
    for name, event_s in (("a", 0.8), ("b", 0.4)):
        write_video(tmp_path / f"{name}.mkv", 2.0, events_s=(event_s,))
    (tmp_path / "v.mkv").write_bytes((tmp_path / "a.mkv").read_bytes() + (tmp_path / "b.mkv").read_bytes())
    reader, times_s, _, sound = read(tmp_path / "v.mkv")
    assert times_s == sorted(times_s) and len(times_s) == 20 and reader.duration_s < 2.2
    assert np.count_nonzero(np.diff(np.flatnonzero(np.abs(sound) > 0.4), prepend=-9999) > 1600) == 1


def test_audio_of_192_khz(tmp_path):
    soundfile.write(tmp_path / "v.wav", silence_with_clicks(1.0, (0.5,), 192000), 192000)
    assert click_s(read(tmp_path / "v.wav")[3]) == pytest.approx(0.5, abs=0.01)


def test_video_of_one_pixel(tmp_path):
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width = stream.height = 1
        stream.pix_fmt = "bgr0"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((1, 1, 3), 99, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    _, times_s, frames, _ = read(tmp_path / "v.mkv")
    assert len(times_s) == 5 and frames[0].shape == (1, 1, 3) and abs(int(frames[0].mean()) - 99) < 3


def _cut(path):
    write_video(path, 2.0, events_s=(1.0,))
    path.write_bytes(path.read_bytes()[:-3000])


def _cut_with_index_in_front(path):
    write_video(path, 4.0, size_px=(320, 240), options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _huge_header(path):
    write_video(path.with_suffix(".mkv"), 0.5, audio=False)
    ffmpeg("-i", path.with_suffix(".mkv"), "-c:v", "rawvideo", "-pix_fmt", "bgr24", path.with_suffix(".avi"))
    data = bytearray(path.with_suffix(".avi").read_bytes())
    at = data.index(b"strf") + 8
    assert [abs(side) for side in struct.unpack_from("<ii", data, at + 4)] == [64, 48]
    data[at + 4 : at + 12] = struct.pack("<ii", 32000, 32000)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "No such file"),
        (lambda path: path.mkdir(), "not a regular file"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("no video at all\n" * 100), "cannot be used"),
        (lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"), "cannot be used"),
        (_cut, "cannot be used"),
        (_cut_with_index_in_front, "truncated|cannot be used"),
        (_huge_header, "32000 x 32000 pixels; at most 67108864 are allowed"),
    ],
)
def test_hostile_file_is_refused_in_one_line(tmp_path, make, message):
    make(tmp_path / "v.mp4")
    with pytest.raises(UsageError, match=message) as raised:
        read(tmp_path / "v.mp4")
    assert "\n" not in str(raised.value) and str(tmp_path / "v.mp4") in str(raised.value)


def test_limits_are_those_of_the_caller(tmp_path):
    path = write_video(tmp_path / "v.mp4", 2.0)
    with pytest.raises(UsageError, match="64 x 48 pixels; at most 3000 are allowed"):
        VideoReader(path, max_pixels=3000)
    with pytest.raises(UsageError, match=r"it lasts 2 s; at most 1\.5 s are allowed"):
        VideoReader(path, max_duration_s=1.5)
    VideoReader(path, max_pixels=64 * 48, max_duration_s=2.5).close()
