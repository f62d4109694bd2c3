"""Heatmap sources of localization: the audio window of a model, priors, chance, object-guided maps."""

from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from oracle_encoders import PITCHES_HZ, Colors, Identity, Pitches
from PIL import Image
from tiny_localization import RATE_HZ, SIZE_PX, benchmark, oracle
from torch import nn

from configs.errors import UsageError
from eval.benchmarks.localization.benchmark import Localization
from eval.benchmarks.localization.dataset import LocalizationExample, LocalizationSet, boxes_region
from eval.benchmarks.localization.heatmap_sources import (
    ModelMaps,
    ObjectPrior,
    center_prior,
    crop_audio,
    object_guided,
    random_maps,
    step_mask,
)
from eval.benchmarks.localization.metrics import CIoUMetrics
from eval.metrics.localization import min_max_normalize
from model.denseav import DenseAV, InputSpec, SimilarityConfig

# ---------------------------------------------------------------------------------------------- audio windows


def _oracle_model(clip_duration_s):
    model = DenseAV(
        Colors(),
        Pitches(),
        Identity(),
        Identity(),
        1,
        1,
        InputSpec(SIZE_PX, clip_duration_s, RATE_HZ),
        SimilarityConfig(),
    )
    model.weight = nn.Parameter(torch.zeros(1))
    return model.eval()


@pytest.fixture
def strip(tmp_path):
    """An image of three colored columns, twice as wide as high; audio with the pitch of one color in each second."""
    image = np.zeros((48, 96, 3), np.uint8)
    for color in range(3):
        image[:, 32 * color : 32 * color + 32, color] = 255
    Image.fromarray(image).save(tmp_path / "strip.png")

    def item(pitches, second=None, audio_window_s=5.0):
        time_s = np.arange(RATE_HZ) / RATE_HZ
        audio = tmp_path / f"{'-'.join(map(str, pitches))}.wav"
        soundfile.write(
            audio, np.concatenate([0.5 * np.sin(2 * np.pi * PITCHES_HZ[p] * time_s) for p in pitches]), RATE_HZ
        )
        return LocalizationExample(
            f"{audio.stem}@{second}",
            tmp_path / "strip.png",
            audio,
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
def test_each_second_has_its_own_map_even_if_the_model_takes_shorter_audio(strip, clip_duration_s):
    pitches = (0, 2, 1, 1, 2)
    maps = ModelMaps(_oracle_model(clip_duration_s))([strip(pitches, second) for second in range(5)])
    assert _column(maps) == list(pitches)


@pytest.mark.parametrize("clip_duration_s", [10.0, 3.0, 1.5])
def test_only_the_middle_three_seconds_are_used(strip, clip_duration_s):
    """Nine seconds of audio, whose middle three have another pitch."""
    assert _column(
        ModelMaps(_oracle_model(clip_duration_s))([strip((0, 0, 0, 2, 2, 2, 0, 0, 0), audio_window_s=3.0)])
    ) == [2]


def test_audio_window_is_centered_and_padded(strip):
    long, short = strip((0, 1, 2, 0, 1, 2, 0, 1, 2, 0), audio_window_s=3.0), strip((1,), audio_window_s=3.0)
    inputs = InputSpec(SIZE_PX, 4.0, RATE_HZ)
    window = crop_audio(long, inputs)
    assert (window.start_s, window.mask.sum(), len(window.waveform)) == (3.5, 3 * RATE_HZ, 4 * RATE_HZ)
    assert window.mask[: 3 * RATE_HZ].all() and not window.waveform[3 * RATE_HZ :].any()
    assert (crop_audio(short, inputs).start_s, crop_audio(short, inputs).mask.sum()) == (0.0, RATE_HZ)
    last = crop_audio(long._replace(second=9, audio_window_s=5.0), inputs)
    assert (last.start_s, last.mask.sum()) == (6.0, 4 * RATE_HZ)


def test_all_valid_steps_count_for_a_second_after_the_end(strip):
    mask = torch.ones(3, 10, dtype=torch.bool)
    mask[:, 8:] = False
    items = [strip((0, 1, 2), second) for second in (None, 1, 7)]
    steps = step_mask(items, [0.0, 0.3, 0.0], mask, 4.0)
    assert [row.nonzero()[:, 0].tolist() for row in steps] == [[*range(8)], [2, 3], [*range(8)]]


def test_frames_with_the_same_audio_window_encode_it_once(strip):
    model, calls = _oracle_model(10.0), []
    model.audio_encoder.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    ModelMaps(model)([*(strip((0, 1, 2, 0, 1), second) for second in range(5)), strip((2, 1), 0)])
    assert calls == [2]


def test_invalid_audio_file_is_named(strip, untrained):
    item = strip((0,))
    item.audio.write_bytes(b"RIFF nothing")
    with pytest.raises(ValueError, match=r"0\.wav is not an audio file"):
        ModelMaps(untrained)([item])


# ---------------------------------------------------------------------------------------------- baselines


def test_center_prior_is_symmetric_and_the_same_for_all_images(sets):
    maps = center_prior(benchmark(sets, "vggss").items[:2])
    assert (
        torch.equal(maps[0], maps[1])
        and torch.allclose(maps[0], maps[0].flip(0))
        and torch.allclose(maps[0], maps[0].T)
    )
    assert maps[0].argmax() in (111 * 224 + 111, 111 * 224 + 112, 112 * 224 + 111, 112 * 224 + 112)


def test_random_maps_depend_only_on_the_item(sets):
    items = benchmark(sets, "vggss").items
    maps = partial(random_maps, rows=7, columns=9)
    assert (
        torch.equal(maps(items[:3])[2:], maps(items[2:3]))
        and maps(items).shape == (24, 7, 9)
        and len(maps(items).flatten(1).unique(dim=0)) == 24
    )


def test_chance_on_a_large_grid_equals_the_expected_value():
    """Half of all pixels at random hit s/2 of a region of area s and claim (1 - s)/2 outside."""
    item = LocalizationExample("a", None, None, partial(boxes_region, [(0, 0, 224, 112)]), "", "a", 3.0)
    source = partial(random_maps, rows=224, columns=224)
    values = Localization("x", LocalizationSet([item]), CIoUMetrics(), 1, 0).values(source, [item])
    assert values["median"].item() == pytest.approx(0.25 / (0.5 + 0.25), abs=0.01) and values[
        "ap"
    ].item() == pytest.approx(0.5, abs=0.01)


def test_object_prior_ignores_the_audio(sets):
    torch.manual_seed(0)
    prior = ObjectPrior("random")
    items = benchmark(sets, "vggss").items[:2]
    maps = prior(items)
    assert maps.shape == (2, 7, 7) and maps.min() >= 0 and not torch.equal(maps[0], maps[1])
    assert torch.equal(prior([items[0]._replace(audio=items[1].audio)]), prior(items[:1]))


def test_object_prior_loads_weights_from_a_file(sets, tmp_path):
    import timm

    classifier = timm.create_model("resnet18", num_classes=1000)
    torch.save(classifier.state_dict(), tmp_path / "resnet.pth")
    items = benchmark(sets, "vggss").items[:1]
    first, second = (ObjectPrior(str(tmp_path / "resnet.pth"))(items) for _ in range(2))
    assert torch.equal(first, second)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"object_prior=.*other\.pth has weights of another model"):
        ObjectPrior(str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match=r"object_prior=.*nowhere\.pth: no such file"):
        ObjectPrior(str(tmp_path / "nowhere.pth"))


def test_unavailable_pretrained_weights_raise_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    with pytest.raises(
        UsageError, match=r"object_prior=pretrained: the weights of resnet18\.tv_in1k .* give a file, or random"
    ) as caught:
        ObjectPrior("pretrained")
    assert "\n" not in str(caught.value)


def test_object_guided_maps_weigh_the_model_by_two_fifths(sets, untrained):
    items = benchmark(sets, "vggss").items[:4]
    mixed = partial(object_guided, own=oracle, prior=center_prior)
    assert torch.allclose(
        mixed(items), 0.4 * min_max_normalize(oracle(items)) + 0.6 * min_max_normalize(center_prior(items))
    )
    assert set(benchmark(sets, "vggss").evaluate(untrained, source=mixed).metrics) == {
        "median/ciou",
        "median/auc",
        "adaptive/ciou",
        "adaptive/auc",
    }
