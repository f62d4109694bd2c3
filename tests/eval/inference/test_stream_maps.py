"""Heatmaps over time: those of DenseAV.heatmap for the frame on screen and the audio at its time."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_maps import red_and_blue, write_halves
from tiny_media import write_wav

from eval.benchmarks.localization.dataset import LocalizationExample
from eval.benchmarks.localization.heatmap_sources import ModelMaps
from eval.inference.stream_maps import encode_block, encode_frames, held_frames, input_size, stream_maps
from eval.inference.video_reader import VideoReader
from eval.render.first_pass import whole_sound_maps
from eval.render.still import StillVideo
from model.upsamplers import UPSAMPLERS


class _Clip:
    """A video in memory."""

    def __init__(self, frames, sound, duration_s):
        self._frames, self._sound, self.duration_s, self.has_audio = frames, sound, duration_s, True

    def frames(self, max_fps=None):  # noqa: ARG002
        yield from self._frames

    def audio_blocks(self, rate_hz, samples):  # noqa: ARG002
        for start in range(0, len(self._sound), samples):
            yield self._sound[start : start + samples]


def _noise(seconds):
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(16000 * seconds)).astype(np.float32)


def test_maps_at_step_centers_are_those_of_the_model_in_every_window():
    model, sound = red_and_blue(), _noise(2.5)
    frames = [(0.05 + 0.1 * step, np.full((48, 96, 3), 10 * step, np.uint8)) for step in range(25)]
    found = {round(maps.time_s, 4): maps for maps in stream_maps(model, _Clip(frames, sound, 2.5))}
    with torch.inference_mode():
        for step, (time_s, frame) in enumerate(frames):
            audio = encode_block(model, sound[16000 * (step // 10) : 16000 * (step // 10 + 1)])
            one = torch.zeros(1, 10)
            one[0, step % 10] = 1
            expected = model.heatmap(encode_frames(model, [frame]), audio, per_head=True, step_weight=one)[0].numpy()
            assert np.abs(found[round(time_s, 4)].by_head - expected).max() < 1e-6
            assert np.abs(found[round(time_s, 4)].heatmap - expected.max(axis=0)).max() < 1e-6


def test_maps_are_linear_between_steps_and_those_of_silence_after_the_end():
    model, frame = red_and_blue(), np.full((48, 48, 3), 200, np.uint8)
    clip = _Clip([(time_s, frame) for time_s in (0.95, 1.0, 1.05, 1.95, 1.99)], _noise(2.0), 3.5)
    maps = {round(maps.time_s, 2): maps.heatmap for maps in stream_maps(model, clip)}
    assert maps[1.0] == pytest.approx((maps[0.95] + maps[1.05]) / 2, rel=1e-5) and maps[1.0].min() > 0
    assert maps[1.99] == pytest.approx(maps[1.95]) and maps[2.29].max() == 0


def test_whole_sound_gives_the_map_of_the_evaluation(tmp_path):
    model, rng = red_and_blue(2.0), np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    write_wav(tmp_path / "a.wav", _noise(1.4))
    item = LocalizationExample("a", tmp_path / "a.png", tmp_path / "a.wav", lambda: torch.zeros(224, 224), "", "a")
    with VideoReader(tmp_path / "a.wav") as sound:
        video = StillVideo(np.array(Image.open(tmp_path / "a.png")), sound)
        for per_head in (False, True):
            found = whole_sound_maps(model, next(video.frames())[1], video, per_head)
            assert np.abs(found - ModelMaps(model)([item], per_head)[0].numpy()).max() < 1e-6


def test_frame_that_stays_is_repeated_and_encoded_once():
    frames = [(0.3, np.zeros((48, 48, 3), np.uint8)), (0.62, np.ones((48, 48, 3), np.uint8))]
    held = list(held_frames(_Clip(frames, _noise(1.0), 1.0), None))
    assert [round(time_s, 2) for time_s, _ in held] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.62, 0.72, 0.82, 0.92]
    assert all(shown is frames[time_s > 0.6][1] for time_s, shown in held)
    model, encoded = red_and_blue(), []
    model.image_encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    assert len(list(stream_maps(model, _Clip(frames, _noise(1.0), 1.0)))) == 10 and sum(encoded) == 2


def test_upsampler_brings_maps_to_the_size_of_the_frames(tmp_path):
    with VideoReader(write_halves(tmp_path / "v.mp4", 0.5, (0.0, 0.5))) as video:
        maps = list(stream_maps(red_and_blue(), video, 5, UPSAMPLERS["bilinear"]()))
    assert len(maps) == 5 and maps[0].by_head.shape == (2, 48, 96) and maps[0].heatmap.shape == (48, 96)
    assert maps[2].by_head[0, :, :40].min() > 5 * maps[2].by_head[0, :, 56:].max()


@pytest.mark.parametrize(
    ("shape", "size"), [((48, 48), (48, 48)), ((480, 640), (48, 64)), ((100, 10), (304, 32)), ((1, 9999), (8, 1152))]
)
def test_inputs_of_any_shape_have_a_bounded_number_of_patches(shape, size):
    assert input_size(red_and_blue(), *shape) == size
    assert size[0] * size[1] <= 4.3 * 48 * 48
