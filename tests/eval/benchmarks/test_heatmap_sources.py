"""Where maps come from: what a model hears and when, priors, chance, the mixture."""

from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tiny_localization import RATE_HZ, SIZE_PX, benchmark, make_twins, oracle, untrained_model
from torch import nn

from configs.errors import UsageError
from eval.benchmarks.localization.benchmark import Localization
from eval.benchmarks.localization.dataset import LocalizationExample, LocalizationSet, boxes_region
from eval.benchmarks.localization.heatmap_sources import (
    ModelMaps,
    ObjectGuided,
    ObjectPrior,
    RandomMaps,
    center_prior,
    crop_audio,
    frame_mask,
)
from eval.benchmarks.localization.metrics import CIoUMetrics
from eval.metrics.localization import min_max_normalize
from model.denseav import DenseAV, InputSpec, SimilarityConfig


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    return make_twins(tmp_path_factory.mktemp("twins"))


@pytest.fixture(scope="module")
def untrained():
    return untrained_model()


# ---------------------------------------------------------------------------------------------- what is heard and when

PITCHES_HZ = (400, 1000, 2500)


class _Colors(nn.Module):
    def forward(self, frames):
        return nn.functional.avg_pool2d(frames, 8), None


class _Pitches(nn.Module):
    def forward(self, waveform):
        spectrum = torch.fft.rfft(waveform.unfold(-1, 800, 800)).abs()
        return torch.stack([spectrum[..., hz // 20] for hz in PITCHES_HZ], dim=1), None


class _AsItIs(nn.Module):
    def forward(self, dense, cls):
        return dense, cls


def _knowing(clip_duration_s):
    model = DenseAV(
        _Colors(),
        _Pitches(),
        _AsItIs(),
        _AsItIs(),
        1,
        1,
        InputSpec(SIZE_PX, clip_duration_s, RATE_HZ),
        SimilarityConfig(),
    )
    model.weight = nn.Parameter(torch.zeros(1))
    return model.eval()


@pytest.fixture
def strip(tmp_path):
    """A picture of three coloured columns, twice as wide as high, and a sound that has the pitch of one colour in each second."""
    image = np.zeros((48, 96, 3), np.uint8)
    for color in range(3):
        image[:, 32 * color : 32 * color + 32, color] = 255
    Image.fromarray(image).save(tmp_path / "strip.png")

    def item(pitches, second=None, audio_window_s=5.0):
        time_s = np.arange(RATE_HZ) / RATE_HZ
        sound = tmp_path / f"{'-'.join(map(str, pitches))}.wav"
        soundfile.write(
            sound, np.concatenate([0.5 * np.sin(2 * np.pi * PITCHES_HZ[p] * time_s) for p in pitches]), RATE_HZ
        )
        return LocalizationExample(
            f"{sound.stem}@{second}",
            tmp_path / "strip.png",
            sound,
            partial(boxes_region, []),
            "",
            "",
            audio_window_s,
            second,
        )

    return item


def _column(maps):
    return (maps.mean(dim=1).argmax(dim=1) * 3 // maps.shape[2]).tolist()


@pytest.mark.parametrize("clip_duration_s", [10.0, 5.0, 2.4, 1.0])
def test_each_second_has_its_own_map_also_where_the_model_hears_less_than_the_video(strip, clip_duration_s):
    pitches = (0, 2, 1, 1, 2)
    maps = ModelMaps(_knowing(clip_duration_s))([strip(pitches, second) for second in range(5)])
    assert _column(maps) == list(pitches)


@pytest.mark.parametrize("clip_duration_s", [10.0, 3.0, 1.5])
def test_only_the_middle_three_seconds_are_heard(strip, clip_duration_s):
    """Nine seconds of which the middle three have another pitch."""
    assert _column(ModelMaps(_knowing(clip_duration_s))([strip((0, 0, 0, 2, 2, 2, 0, 0, 0), audio_window_s=3.0)])) == [
        2
    ]


def test_a_stretch_is_cut_where_it_should_be_and_what_lacks_is_padding(strip):
    long, short = strip((0, 1, 2, 0, 1, 2, 0, 1, 2, 0), audio_window_s=3.0), strip((1,), audio_window_s=3.0)
    inputs = InputSpec(SIZE_PX, 4.0, RATE_HZ)
    heard = crop_audio(long, inputs)
    assert (heard.start_s, heard.mask.sum(), len(heard.waveform)) == (3.5, 3 * RATE_HZ, 4 * RATE_HZ)
    assert heard.mask[: 3 * RATE_HZ].all() and not heard.waveform[3 * RATE_HZ :].any()
    assert (crop_audio(short, inputs).start_s, crop_audio(short, inputs).mask.sum()) == (0.0, RATE_HZ)
    last = crop_audio(long._replace(second=9, audio_window_s=5.0), inputs)
    assert (last.start_s, last.mask.sum()) == (6.0, 4 * RATE_HZ)


def test_steps_of_a_second_that_is_not_there_are_all_valid_ones(strip):
    mask = torch.ones(3, 10, dtype=torch.bool)
    mask[:, 8:] = False
    items = [strip((0, 1, 2), second) for second in (None, 1, 7)]
    steps = frame_mask(items, [0.0, 0.3, 0.0], mask, 4.0)
    assert [row.nonzero()[:, 0].tolist() for row in steps] == [[*range(8)], [2, 3], [*range(8)]]


def test_frames_that_hear_the_same_stretch_are_encoded_once(strip):
    model, calls = _knowing(10.0), []
    model.audio_encoder.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    ModelMaps(model)([*(strip((0, 1, 2, 0, 1), second) for second in range(5)), strip((2, 1), 0)])
    assert calls == [2]


def test_a_sound_that_is_none_is_named(strip, untrained):
    item = strip((0,))
    item.sound.write_bytes(b"RIFF nothing")
    with pytest.raises(ValueError, match=r"0\.wav is not a sound file"):
        ModelMaps(untrained)([item])


# ---------------------------------------------------------------------------------------------- what a model must beat


def test_the_centre_prior_is_brightest_in_the_middle_and_the_same_for_all(twins):
    maps = center_prior(benchmark(twins, "vggss").items[:2])
    assert (
        torch.equal(maps[0], maps[1])
        and torch.allclose(maps[0], maps[0].flip(0))
        and torch.allclose(maps[0], maps[0].T)
    )
    assert maps[0].argmax() in (111 * 224 + 111, 111 * 224 + 112, 112 * 224 + 111, 112 * 224 + 112)


def test_chance_is_the_same_for_a_picture_at_any_time_and_differs_between_pictures(twins):
    items = benchmark(twins, "vggss").items
    maps = RandomMaps(7, 9)
    assert (
        torch.equal(maps(items[:3])[2:], maps(items[2:3]))
        and maps(items).shape == (24, 7, 9)
        and len(maps(items).flatten(1).unique(dim=0)) == 24
    )


def test_chance_on_a_large_grid_is_what_can_be_worked_out():
    """Half of all pixels, wherever they are: hit s/2 of a region with share s, claim (1 - s)/2 outside."""
    item = LocalizationExample("a", None, None, partial(boxes_region, [(0, 0, 224, 112)]), "", "a", 3.0)
    values = Localization("x", LocalizationSet([item]), CIoUMetrics(), 1, 0).values(RandomMaps(224, 224), [item])
    assert values["median"].item() == pytest.approx(0.25 / (0.5 + 0.25), abs=0.01) and values[
        "ap"
    ].item() == pytest.approx(0.5, abs=0.01)


def test_the_object_prior_looks_at_the_picture_alone(twins):
    torch.manual_seed(0)
    prior = ObjectPrior("random")
    items = benchmark(twins, "vggss").items[:2]
    maps = prior(items)
    assert maps.shape == (2, 7, 7) and maps.min() >= 0 and not torch.equal(maps[0], maps[1])
    assert torch.equal(prior([items[0]._replace(sound=items[1].sound)]), prior(items[:1]))


def test_the_object_prior_takes_weights_from_a_file(twins, tmp_path):
    import timm

    classifier = timm.create_model("resnet18", num_classes=1000)
    torch.save(classifier.state_dict(), tmp_path / "resnet.pth")
    items = benchmark(twins, "vggss").items[:1]
    first, second = (ObjectPrior(str(tmp_path / "resnet.pth"))(items) for _ in range(2))
    assert torch.equal(first, second)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"object_prior=.*other\.pth has weights of another model"):
        ObjectPrior(str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match=r"object_prior=.*nowhere\.pth: no such file"):
        ObjectPrior(str(tmp_path / "nowhere.pth"))


def test_pretrained_weights_that_cannot_be_had_are_told_in_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    with pytest.raises(
        UsageError, match=r"object_prior=pretrained: the weights of resnet18\.tv_in1k .* give a file, or random"
    ) as caught:
        ObjectPrior("pretrained")
    assert "\n" not in str(caught.value)


def test_the_mixture_is_two_fifths_its_own_map(twins, untrained):
    items = benchmark(twins, "vggss").items[:4]
    mixed = ObjectGuided(oracle, center_prior)
    assert torch.allclose(
        mixed(items), 0.4 * min_max_normalize(oracle(items)) + 0.6 * min_max_normalize(center_prior(items))
    )
    assert set(benchmark(twins, "vggss").evaluate(untrained, maps=mixed).metrics) == {
        "median/ciou",
        "median/auc",
        "adaptive/ciou",
        "adaptive/auc",
    }
