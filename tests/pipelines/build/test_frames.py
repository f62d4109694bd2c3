"""Selected frames of real files of many codecs are pixel-identical to full decoding."""

from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from tiny_decode import ffmpeg

from configs.schema import DecodeConfig
from pipelines.build.decode.clip import FrameConverter, decode_clip, frames_decord, frames_pyav
from pipelines.build.decode.container import open_media, segment_of, video_stream
from pipelines.build.decode.frame_selection import frame_at, nearest, packet_ranges, sample_times, select_frames
from pipelines.build.decode.packet_scan import scan
from pipelines.manifest import Clip

CODECS = {
    "h264.mp4": "-c:v libx264 -bf 3 -g 48 -c:a aac",
    "h264_open_groups.mkv": "-c:v libx264 -x264-params open-gop=1:bframes=3:keyint=48:b-pyramid=strict -c:a aac",
    "h264_open_groups.ts": "-c:v libx264 -x264-params open-gop=1:bframes=3:keyint=48 -c:a aac",
    "h264_interlaced.ts": "-c:v libx264 -flags +ildct+ilme -x264-params interlaced=1:bframes=2:keyint=48 -c:a aac",
    "h265.mp4": "-c:v libx265 -x265-params log-level=none:keyint=48:bframes=4 -c:a aac",
    "vp8.webm": "-c:v libvpx -g 48 -auto-alt-ref 1 -c:a libvorbis",
    "vp9.webm": "-c:v libvpx-vp9 -g 48 -auto-alt-ref 1 -lag-in-frames 16 -c:a libopus",
    "av1.mp4": "-c:v libaom-av1 -cpu-used 8 -g 48 -c:a aac",
    "mpeg4.avi": "-c:v mpeg4 -bf 2 -g 48 -c:a libmp3lame",
    "mpeg2.ts": "-c:v mpeg2video -bf 2 -g 15 -c:a mp2",
    "mpeg2.mpg": "-c:v mpeg2video -bf 2 -g 15 -c:a mp2",
    "theora.ogv": "-c:v libtheora -g 48 -c:a libvorbis",
}
INPUTS = "-f lavfi -i testsrc2=s=160x96:r=25 -f lavfi -i sine=440:sample_rate=44100 -t 6"
SEGMENTS = {"full": (0.0, 0.0), "segment": (1.3, 5.1)}
SIDE_PX = 48


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A function that encodes 6 s at 25 frames per second, once per codec."""
    folder = tmp_path_factory.mktemp("codecs")

    @cache
    def make(name: str) -> Path:
        options = (CODECS | {"avs2.ts": "-c:v libxavs2 -c:a aac"})[name]
        ffmpeg(*f"{INPUTS} {options}".split(), folder / name)
        return folder / name

    return make


def every_frame(path: Path) -> tuple[np.ndarray, list[np.ndarray], float]:
    """Times and pixels of all frames of a file, decoded one after the other, and the start of its clock."""
    with av.open(str(path)) as container:
        convert = FrameConverter(None, SIDE_PX)
        decoded = [(frame.time, convert(frame)) for frame in container.decode(video=0)]
        return np.array([time_s for time_s, _ in decoded]), [image for _, image in decoded], container.start_time / 1e6


def scanned(path: Path, start_s: float, end_s: float):
    with open_media(path) as container:
        clip = Clip(id="a", media=path.name, start_s=start_s, end_s=end_s)
        segment = segment_of(container, clip, DecodeConfig())
        return segment, scan(path, container, segment, with_frames=True)[1]


@pytest.mark.parametrize("part", SEGMENTS)
@pytest.mark.parametrize("name", CODECS)
def test_exact_frames_equal_those_of_decoding_every_frame(encoded, name, part):
    path = encoded(name)
    start_s, end_s = SEGMENTS[part]
    decoded = decode_clip(
        Clip(id="a", media=path.name, start_s=start_s, end_s=end_s), path.parent, DecodeConfig(short_side_px=SIDE_PX)
    )
    times_s, images, zero_s = every_frame(path)
    expected = frame_at(times_s - zero_s - start_s, sample_times(decoded.end_s - decoded.start_s, 10))
    assert np.allclose(decoded.frame_times_s, (times_s - zero_s - start_s)[expected], atol=1e-3)
    assert all(np.array_equal(frame, images[at]) for frame, at in zip(decoded.frames, expected, strict=True))


@pytest.mark.parametrize("part", SEGMENTS)
@pytest.mark.parametrize("name", CODECS)
def test_selected_packets_yield_all_selected_frames(encoded, name, part):
    """Otherwise `read_frames` falls back to decoding everything, which is correct but slow."""
    path = encoded(name)
    segment, times = scanned(path, *SEGMENTS[part])
    selected = np.unique(frame_at(times.times_s, sample_times(segment.duration_s, 10))).tolist()
    frames = frames_pyav._decode_selected(path, segment, times, selected, "exact", exactly=True)
    decoded = [time_s for time_s, _ in frames]
    assert set(np.round(np.array(times.times_s)[selected], 4)) <= set(np.round(decoded, 4))


@pytest.mark.parametrize("part", SEGMENTS)
@pytest.mark.parametrize("name", CODECS)
def test_fast_frames_are_within_a_tenth_of_a_second(encoded, name, part):
    path = encoded(name)
    segment, times = scanned(path, *SEGMENTS[part])
    at_s = sample_times(segment.duration_s, 10)
    fast = [t for t, _ in frames_pyav.read_frames(path, segment, times, at_s, "fast", lambda frame: frame.pts)]
    exact = [t for t, _ in frames_pyav.read_frames(path, segment, times, at_s, "exact", lambda frame: frame.pts)]
    assert len(exact) == 10
    assert max(np.abs(np.array(fast) - time_s).min() for time_s in exact) <= 0.1


def test_fast_skips_non_reference_frames(encoded):
    path = encoded("h264.mp4")
    segment, times = scanned(path, 0.0, 0.0)
    selected = np.unique(frame_at(times.times_s, sample_times(segment.duration_s, 10))).tolist()
    fast, exact = (
        len(list(frames_pyav._decode_selected(path, segment, times, selected, "fast", exactly)))
        for exactly in (False, True)
    )
    assert fast < exact < 0.6 * len(times.stamps)


@pytest.mark.parametrize("name", ["h264.mp4", "h264_open_groups.mkv", "h265.mp4", "vp9.webm"])
def test_keyframes_mode_selects_the_nearest_keyframes(encoded, name):
    path = encoded(name)
    with av.open(str(path)) as container:
        keys_s = [float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.is_keyframe]
    decoded = decode_clip(
        Clip(id="a", media=path.name), path.parent, DecodeConfig(mode="keyframes", short_side_px=SIDE_PX)
    )
    assert 2 < len(keys_s) < 10
    assert np.allclose(decoded.frame_times_s, np.array(keys_s) - (0.0 if keys_s[0] < 0.01 else keys_s[0]), atol=0.05)
    times_s, images, _ = every_frame(path)
    for time_s, frame in zip(decoded.frame_times_s, decoded.frames, strict=True):
        assert np.array_equal(frame, images[np.abs(times_s - time_s).argmin()])


@pytest.mark.parametrize("mode", ["exact", "keyframes"])
def test_decord_selects_the_same_frames_as_pyav(encoded, mode):
    path = encoded("h264.mp4")
    segment, times = scanned(path, 1.3, 5.1)
    arguments = path, segment, times, sample_times(segment.duration_s, 10), mode, FrameConverter(None, SIDE_PX)
    by_decord, by_pyav = frames_decord.read_frames(*arguments), frames_pyav.read_frames(*arguments)
    assert np.allclose([time_s for time_s, _ in by_decord], [time_s for time_s, _ in by_pyav], atol=1e-3)
    for (_, theirs), (_, ours) in zip(by_decord, by_pyav, strict=True):
        assert np.abs(theirs.astype(int) - ours).mean() < 12  # the YUV to RGB conversion of decord is less accurate


def test_codec_that_pyav_does_not_support_is_transcoded_by_ffmpeg(encoded):
    path = encoded("avs2.ts")
    with open_media(path) as container:
        assert video_stream(container).codec_context is None
    decoded = decode_clip(
        Clip(id="a", media=path.name, start_s=1.0, end_s=4.0), path.parent, DecodeConfig(short_side_px=SIDE_PX)
    )
    assert decoded.decoder == "ffmpeg" and decoded.decoder_version
    assert (decoded.start_s, len(decoded.waveform)) == (1.0, pytest.approx(48000, abs=800))
    assert decoded.frames[0].shape == (48, 80, 3)


def test_sample_times_are_the_midpoints_of_equal_parts():
    assert sample_times(4.0, 4).tolist() == [0.5, 1.5, 2.5, 3.5]


def test_frame_at_is_the_last_presented_frame_and_nearest_the_closest():
    times_s = [0.0, 0.4, 0.2, 0.6]  # in decoding order
    assert frame_at(times_s, np.array([-1.0, 0.2, 0.39, 0.4, 9.0])).tolist() == [0, 2, 2, 1, 3]
    assert nearest(times_s, np.array([-1.0, 0.1, 0.31, 9.0])).tolist() == [0, 0, 1, 3]


def test_packet_ranges_span_keyframe_to_selected_frame_and_the_previous_gop_for_leading_frames():
    keys = [True, False, False, False, True, False, False, False, True, False]
    times_s = [0, 3, 1, 2, 4, 7, 5, 6, 9, 8]  # the last one is presented before its keyframe
    assert packet_ranges(times_s, keys, [2]) == [range(3)]
    assert packet_ranges(times_s, keys, [0, 6]) == [range(1), range(4, 7)]
    assert packet_ranges(times_s, keys, [3, 4]) == [range(5)]
    assert packet_ranges(times_s, keys, [9]) == [range(4, 10)]
    assert packet_ranges(times_s, keys, [8]) == [range(8, 9)]


def test_select_frames_holds_two_frames_and_selects_by_time_on_screen_or_nearness():
    frames = [(0.0, "a"), (1.0, "b"), (2.0, "c")]
    assert [frame for _, frame in select_frames(iter(frames), [0.9, 1.0, 5.0], by_nearness=False)] == ["a", "b", "c"]
    assert [frame for _, frame in select_frames(iter(frames), [0.9, 1.4, 1.6, 5.0], by_nearness=True)] == [
        "b",
        "b",
        "c",
        "c",
    ]
    assert list(select_frames(iter([]), [1.0], by_nearness=True)) == []
    stream = iter(frames)
    assert [frame for _, frame in select_frames(stream, [0.5], by_nearness=False)] == ["a"]
    assert next(stream)[1] == "c"  # it reads no more frames than necessary
