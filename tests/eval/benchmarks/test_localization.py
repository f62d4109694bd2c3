"""Localization on small copies of every data set: an untrained model, maps from the annotations, baselines."""

import json
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from tiny_localization import (
    CONFIG,
    KEYS,
    NAMES,
    RATE_HZ,
    anti_oracle,
    benchmark,
    data_settings,
    oracle,
)

from configs.errors import CommandFailed, UsageError
from configs.load import load
from configs.schema import EvalConfig
from eval.benchmarks.localization.benchmark import Localization
from eval.benchmarks.localization.dataset import LocalizationSet, boxes_region
from eval.benchmarks.localization.heatmap_sources import ModelMaps, center_prior
from eval.benchmarks.localization.metrics import CIoUMetrics
from eval.run import main
from model.hub import save_pretrained


def test_seconds_after_the_end_of_the_audio_are_counted(sets, untrained, tmp_path):
    short = benchmark(sets, "avsbench_s4")
    waveform = np.random.default_rng(0).normal(0, 0.1, round(1.4 * RATE_HZ))
    soundfile.write(tmp_path / "short.wav", waveform, RATE_HZ)
    short.items = [
        item._replace(audio=tmp_path / "short.wav") if item.group == short.items[0].group else item
        for item in short.items
    ]
    assert short.evaluate(untrained).items["out_of_range_seconds"] == 3, "of five; the second one is partly there"


@pytest.mark.parametrize("name", NAMES)
def test_result_of_an_untrained_model_has_metrics_chance_examples_and_counts(sets, untrained, name):
    own = benchmark(sets, name)
    measured = own.evaluate(untrained)
    assert set(measured.metrics) == set(measured.chance) == KEYS[name]
    assert all(0 <= value <= 1 for value in [*measured.metrics.values(), *measured.chance.values()])
    assert measured.items["items"] == len(own.items) and measured.items["groups"] <= len(own.items)
    assert [e.average_precision for e in measured.examples] == sorted(
        (e.average_precision for e in measured.examples), reverse=True
    )
    for example in measured.examples:
        assert example.image.shape == (224, 224, 3) and example.target.any() and example.heads.shape == (2, 224, 224)
        assert (example.heatmap.min(), example.heatmap.max()) == (0, 1) and 0 < len(example.waveform) <= 2.4 * RATE_HZ
    assert len(measured.examples) == 5
    assert (len(measured.per_class) > 3) == (name not in ("flickr_soundnet", "avsbench_ms3", "extended_flickr"))


@pytest.mark.parametrize("name", NAMES)
def test_annotation_maps_score_one_and_inverted_maps_zero(sets, untrained, name):
    own = benchmark(sets, name)
    right, wrong = own.evaluate(untrained, source=oracle).metrics, own.evaluate(untrained, source=anti_oracle).metrics
    # F1 is looked up at ten thresholds, so with few items the best one is missed by a little.
    assert {key: value for key, value in right.items() if value < (0.9 if key.endswith("max_f1") else 0.95)} == {}
    silent_frames = 0.2 if name == "avsbench_ms3" else 0  # an empty frame counts by the fraction of its dark pixels
    for key, value in wrong.items():
        limit = {"auc": 0.05, "iauc": 0.05}.get(key.partition("/")[2], 0.01)
        if "best_threshold" not in key:  # at its lowest threshold every map keeps all pixels
            assert value <= limit + silent_frames * key.endswith("miou"), (name, key)


def test_metrics_do_not_depend_on_the_batch_size(sets, untrained):
    for name in ("vggss", "avsbench_ms3"):
        one, other = (benchmark(sets, name, batch_size=size).evaluate(untrained) for size in (4, 32))
        assert one.metrics == pytest.approx(other.metrics, abs=1e-6) and one.chance == other.chance


def test_shuffled_prompts_exchange_only_the_audio(sets, untrained):
    own = benchmark(sets, "is3")
    seen = []
    source = ModelMaps(untrained)

    def recorded(items):
        seen.extend((item.image, item.audio) for item in items)
        return source(items)

    straight, again, shuffled = (
        own.evaluate(untrained, shuffled=s, source=recorded).metrics for s in (False, False, True)
    )
    assert straight == again and set(shuffled) == set(straight)
    assert all(image.stem == audio.stem for image, audio in seen[:48]) and all(p.stem != s.stem for p, s in seen[48:])
    assert sorted(s for _, s in seen[48:]) == sorted(s for _, s in seen[:24])


def test_shuffled_frames_of_a_video_share_one_audio_file(sets, untrained):
    own = benchmark(sets, "avsbench_s4")
    seen = []
    own.evaluate(untrained, shuffled=True, source=lambda items: (seen.extend(items), center_prior(items))[1])
    assert all(
        len({item.audio for item in seen[start : start + 5]}) == 1 and seen[start].audio != own.items[start].audio
        for start in range(0, 30, 5)
    )


def test_images_without_a_region_are_counted_and_included_in_the_mean(sets, untrained):
    found = benchmark(sets, "vggss")
    items = [found.items[0]._replace(region=partial(boxes_region, [])), found.items[1]]
    two = Localization("vggss", LocalizationSet(items), CIoUMetrics(), 2, 0).evaluate(untrained, source=oracle)
    assert (
        two.metrics["median/ciou"] == 0.5
        and two.items["without_a_region"] == 1
        and sum(c["items"] for c in two.per_class.values()) == 1
    )


def test_nonfinite_maps_raise_with_the_image_id(sets, untrained):
    def broken(items):
        maps = torch.rand(len(items), 7, 7)
        maps[-1, 3, 3] = torch.nan
        return maps

    own = benchmark(sets, "vggss", batch_size=4)
    with pytest.raises(
        CommandFailed, match=rf"vggss: the maps of 1 of 4 images in a batch .* first that of {own.items[3].id}"
    ):
        own.evaluate(untrained, source=broken)
    with pytest.raises(CommandFailed, match="24 of 24"):
        benchmark(sets, "vggss", batch_size=32).evaluate(
            untrained, source=lambda items: torch.full((len(items), 7, 7), torch.inf)
        )


def test_constant_maps_score_zero(sets, untrained):
    for name in ("vggss", "avsbench_ms3", "extended_flickr"):
        metrics = benchmark(sets, name).evaluate(untrained, source=lambda items: torch.ones(len(items), 7, 7)).metrics
        assert all(
            value == 0
            for key, value in metrics.items()
            if key.startswith("median/") and not key.endswith(("auc", "miou"))
        )


def test_command_evaluates_all_data_sets_with_stable_keys(sets, untrained, tmp_path):
    save_pretrained(untrained, CONFIG, tmp_path)
    sets = [f"{key}={path}" for key, path in data_settings(sets).items()]
    assert (
        main(
            load(
                EvalConfig,
                [f"checkpoint={tmp_path}", f"out={tmp_path}/out", f"benchmarks={NAMES}", "baselines=[chance]", *sets],
            )
        )
        == 0
    )
    written = json.loads((tmp_path / "out/metrics.json").read_text())
    expected = {
        "vggss/median/ciou",
        "vggss/median/auc",
        "vggss/adaptive/ciou",
        "flickr_soundnet/adaptive/auc",
        "is3/adaptive/iiou",
        "is3/median/ciou",
    }
    expected |= {
        "is3_masks/median/iauc",
        "avsbench_s4/threshold_0.5/miou",
        "avsbench_ms3/best_threshold_test/f_score",
        "extended_vggss/median/ap",
        "extended_flickr/median/max_f1",
    }
    assert expected | {f"chance/{key}" for key in expected} <= set(written["metrics"])
    assert written["items"]["avsbench_ms3/without_a_region"] == 6 and written["items"]["is3/groups"] == 12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("is3", "data.is3.root= is missing"),
        ("avsbench_ms3", "data.avsbench.root= is missing"),
        ("extended_flickr", "data.extended_flickr.root= is missing"),
    ],
)
def test_missing_folder_setting_is_named(name, message):
    from eval.benchmarks.registry import build_benchmarks

    with pytest.raises(UsageError, match=message):
        build_benchmarks(EvalConfig(benchmarks=[name]))


@pytest.mark.parametrize("name", ["vggss", "is3_masks"])
def test_an_upsampler_changes_the_maps_and_bilinear_ones_are_a_baseline(sets, untrained, name):
    plain, guided = benchmark(sets, name), benchmark(sets, name, upsampler="bicubic")
    expected, measured = plain.evaluate(untrained), guided.evaluate(untrained)
    assert "bilinear" in guided.baselines and "bilinear" not in plain.baselines
    assert guided.evaluate_baseline("bilinear", untrained) == expected.metrics
    assert measured.metrics != expected.metrics and measured.chance == expected.chance
