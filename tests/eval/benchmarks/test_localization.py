"""Localisation end to end on twins of every set: an untrained model, maps that know the answer, and what a model must beat."""

import json
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from tiny_localization import (
    CONFIG,
    NAMES,
    RATE_HZ,
    anti_oracle,
    benchmark,
    folders,
    make_twins,
    oracle,
    untrained_model,
)

from configs.errors import CommandFailed, UsageError
from configs.load import load
from configs.schema import EvalConfig
from eval.benchmarks.localization.benchmark import Localization
from eval.benchmarks.localization.dataset import LocalizationExample, LocalizationSet, boxes_region
from eval.benchmarks.localization.heatmap_sources import ModelMaps, RandomMaps, center_prior
from eval.benchmarks.localization.metrics import CIoUMetrics, DetectionMetrics, MaskMetrics
from eval.metrics.bootstrap import interval
from eval.metrics.detection import detection
from eval.metrics.threshold_selection import validation_mask
from eval.run import main
from model.hub import save_pretrained


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    return make_twins(tmp_path_factory.mktemp("twins"))


@pytest.fixture(scope="module")
def untrained():
    return untrained_model()


# ---------------------------------------------------------------------------------------------- every set

KEYS = {
    "vggss": {"median/ciou", "median/auc", "adaptive/ciou", "adaptive/auc"},
    "is3": {f"{variant}/{metric}" for variant in ("median", "adaptive") for metric in ("ciou", "auc", "iiou", "iauc")},
    "avsbench_s4": {
        f"{v}/{m}"
        for v in ("median", "adaptive", "threshold_0.5", "best_threshold_test", "best_threshold_val")
        for m in ("miou", "f_score")
    },
    "extended_vggss": {"median/ap", "median/max_f1", "median/ciou"},
}
KEYS |= {
    "flickr_soundnet": KEYS["vggss"],
    "is3_masks": KEYS["is3"],
    "avsbench_ms3": KEYS["avsbench_s4"],
    "extended_flickr": KEYS["extended_vggss"],
}


def test_seconds_that_are_not_in_the_sound_are_counted(twins, untrained, tmp_path):
    short = benchmark(twins, "avsbench_s4")
    waveform = np.random.default_rng(0).normal(0, 0.1, round(1.4 * RATE_HZ))
    soundfile.write(tmp_path / "short.wav", waveform, RATE_HZ)
    short.items = [
        item._replace(sound=tmp_path / "short.wav") if item.group == short.items[0].group else item
        for item in short.items
    ]
    assert short.evaluate(untrained).items["out_of_range_seconds"] == 3, "of five; the second one is there in part"


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_model_is_measured_beside_chance_with_pictures_and_counts(twins, untrained, name):
    own = benchmark(twins, name)
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
def test_maps_that_know_the_answer_reach_one_and_their_opposite_nothing(twins, untrained, name):
    own = benchmark(twins, name)
    right, wrong = own.evaluate(untrained, maps=oracle).metrics, own.evaluate(untrained, maps=anti_oracle).metrics
    # F1 is looked up at ten thresholds, so with few items the best one is missed by a little.
    assert {key: value for key, value in right.items() if value < (0.9 if key.endswith("max_f1") else 0.95)} == {}
    silent_frames = 0.2 if name == "avsbench_ms3" else 0  # an empty frame counts by the share of its pixels left dark
    for key, value in wrong.items():
        limit = {"auc": 0.05, "iauc": 0.05}.get(key.partition("/")[2], 0.01)
        if "best_threshold" not in key:  # at its lowest threshold every map claims everything
            assert value <= limit + silent_frames * key.endswith("miou"), (name, key)


def test_the_same_numbers_come_out_whatever_the_batch(twins, untrained):
    for name in ("vggss", "avsbench_ms3"):
        one, other = (benchmark(twins, name, batch_size=size).evaluate(untrained) for size in (4, 32))
        assert one.metrics == pytest.approx(other.metrics, abs=1e-6) and one.chance == other.chance


def test_shuffled_prompts_change_the_maps_and_nothing_else(twins, untrained):
    own = benchmark(twins, "is3")
    heard = []
    source = ModelMaps(untrained)

    def listening(items):
        heard.extend((item.picture, item.sound) for item in items)
        return source(items)

    straight, again, shuffled = (
        own.evaluate(untrained, shuffled=s, maps=listening).metrics for s in (False, False, True)
    )
    assert straight == again and set(shuffled) == set(straight)
    assert all(picture.stem == sound.stem for picture, sound in heard[:48]) and all(
        p.stem != s.stem for p, s in heard[48:]
    )
    assert sorted(s for _, s in heard[48:]) == sorted(s for _, s in heard[:24])


def test_a_video_of_five_items_shares_one_exchanged_sound(twins, untrained):
    own = benchmark(twins, "avsbench_s4")
    seen = []
    own.evaluate(untrained, shuffled=True, maps=lambda items: (seen.extend(items), center_prior(items))[1])
    assert all(
        len({item.sound for item in seen[start : start + 5]}) == 1 and seen[start].sound != own.items[start].sound
        for start in range(0, 30, 5)
    )


def test_pictures_without_a_region_are_counted_and_stay_in_the_denominator(twins, untrained):
    found = benchmark(twins, "vggss")
    items = [found.items[0]._replace(region=partial(boxes_region, [])), found.items[1]]
    two = Localization("vggss", LocalizationSet(items), CIoUMetrics(), 2, 0).evaluate(untrained, maps=oracle)
    assert (
        two.metrics["median/ciou"] == 0.5
        and two.items["without_a_region"] == 1
        and sum(c["items"] for c in two.per_class.values()) == 1
    )


def test_maps_that_are_no_numbers_stop_the_run_with_the_name_of_the_picture(twins, untrained):
    def broken(items):
        maps = torch.rand(len(items), 7, 7)
        maps[-1, 3, 3] = torch.nan
        return maps

    own = benchmark(twins, "vggss", batch_size=4)
    with pytest.raises(CommandFailed, match=rf"vggss: .* 1 of 4 in a batch, first that of {own.items[3].id}"):
        own.evaluate(untrained, maps=broken)
    with pytest.raises(CommandFailed, match="24 of 24"):
        benchmark(twins, "vggss", batch_size=32).evaluate(
            untrained, maps=lambda items: torch.full((len(items), 7, 7), torch.inf)
        )


def test_flat_maps_find_nothing_and_break_nothing(twins, untrained):
    for name in ("vggss", "avsbench_ms3", "extended_flickr"):
        metrics = benchmark(twins, name).evaluate(untrained, maps=lambda items: torch.ones(len(items), 7, 7)).metrics
        assert all(
            value == 0
            for key, value in metrics.items()
            if key.startswith("median/") and not key.endswith(("auc", "miou"))
        )


def test_the_command_measures_them_all_with_stable_keys(twins, untrained, tmp_path):
    save_pretrained(untrained, CONFIG, tmp_path)
    sets = [f"{key}={path}" for key, path in folders(twins).items()]
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
    wanted = {
        "vggss/median/ciou",
        "vggss/median/auc",
        "vggss/adaptive/ciou",
        "flickr_soundnet/adaptive/auc",
        "is3/adaptive/iiou",
        "is3/median/ciou",
    }
    wanted |= {
        "is3_masks/median/iauc",
        "avsbench_s4/threshold_0.5/miou",
        "avsbench_ms3/best_threshold_test/f_score",
        "extended_vggss/median/ap",
        "extended_flickr/median/max_f1",
    }
    assert wanted | {f"chance/{key}" for key in wanted} <= set(written["metrics"])
    assert written["items"]["avsbench_ms3/without_a_region"] == 6 and written["items"]["is3/groups"] == 12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("is3", "is3= is missing"),
        ("avsbench_ms3", "avsbench= is missing"),
        ("extended_flickr", "extended_flickr= is missing"),
    ],
)
def test_a_set_without_its_folder_is_told(name, message):
    from eval.benchmarks.registry import build_benchmarks

    with pytest.raises(UsageError, match=message):
        build_benchmarks(EvalConfig(benchmarks=[name]))


# ---------------------------------------------------------------------------------------------- measures


def test_a_picture_with_two_prompts_counts_only_if_both_are_found(twins, untrained):
    own = benchmark(twins, "is3_masks")

    def every_second(items):
        maps = oracle(items)
        return torch.stack(
            [
                m if item.picture.stem.endswith(item.group.split("_")[0]) else -m
                for m, item in zip(maps, items, strict=True)
            ]
        )

    metrics = own.evaluate(untrained, maps=every_second).metrics
    assert metrics["median/ciou"] == 0.5 and metrics["median/iiou"] == 0.0


def test_a_threshold_for_all_beats_a_fixed_one_and_is_judged_elsewhere():
    maps = torch.rand(40, 224, 224) * 0.4
    truth = torch.zeros(40, 224, 224)
    truth[:, :100, :100] = 1
    maps[:, :100, :100] += 0.05
    maps[:, -1, -1] = 1
    items = [LocalizationExample(f"v{n // 5}_{n % 5}", None, None, None, "", f"v{n // 5}", 5.0) for n in range(40)]
    measure = MaskMetrics()
    figures = measure.aggregate(measure.per_image(maps, truth), items)
    assert figures["best_threshold_test/miou"] > figures["threshold_0.5/miou"] == 0.0
    assert figures["best_threshold_val/miou"] == pytest.approx(figures["best_threshold_test/miou"], abs=0.01)
    alone = measure.aggregate(measure.per_image(maps[:5], truth[:5]), items[:5])
    assert not any(key.startswith("best_threshold_val") for key in alone)  # one video cannot be two halves


def test_a_threshold_chosen_on_some_videos_is_judged_on_the_others():
    items = [LocalizationExample(f"v{n}", None, None, None, "", f"v{n}", 5.0) for n in range(20)]
    validation = validation_mask([item.group for item in items])
    curves = torch.zeros(20, 255, dtype=torch.float64)
    curves[validation, 10], curves[~validation, 10], curves[~validation, 20] = 0.9, 0.3, 0.8
    values = {
        f"{variant}/{metric}": curves[:, 0] for variant in ("median", "adaptive") for metric in ("miou", "f_score")
    }
    figures = MaskMetrics().aggregate(values | {"curves/miou": curves, "curves/f_score": curves}, items)
    assert 5 < validation.sum() < 15
    assert figures["best_threshold_val/miou"] == figures["best_threshold_val/f_score"] == pytest.approx(0.3)
    assert figures["best_threshold_test/miou"] == pytest.approx(
        0.9 * validation.double().mean().item() + 0.3 * (~validation).double().mean().item()
    )


@pytest.mark.parametrize("name", ["is3", "avsbench_ms3", "extended_vggss"])
def test_every_figure_lies_in_its_interval(twins, name):
    own = benchmark(twins, name)
    values = own.values(
        lambda items: oracle(items) + 1.5 * RandomMaps(14, 14)(items).repeat_interleave(16, 1).repeat_interleave(16, 2),
        own.items,
    )
    figures, intervals = own.measure.aggregate(values, own.items), own.measure.intervals(values, own.items, seed=0)
    assert set(figures) == set(intervals) == KEYS[name]
    assert all(low - 1e-9 <= figures[key] <= high + 1e-9 for key, (low, high) in intervals.items())
    assert sum(high - low > 0.01 for low, high in intervals.values()) > len(intervals) / 2
    assert own.measure.intervals(values, own.items, seed=0) == intervals
    if name == "extended_vggss":
        in_view = torch.tensor([item.in_view for item in own.items])
        drawn = interval(
            lambda rows: (
                detection(values["confidence"][rows], values["median"][rows] >= 0.5, in_view[rows]).average_precision
            ),
            32,
            0,
        )
        assert intervals["median/ap"] == drawn != intervals["median/max_f1"]


def test_confidence_is_read_off_the_maps_before_they_are_scaled():
    visible = LocalizationExample("a", None, None, None, "", "a", 3.0)
    items = [visible, visible._replace(id="b", in_view=False)]
    truth = torch.zeros(2, 224, 224)
    truth[0, :112] = 1
    raw = torch.rand(2, 224, 224) + 10 * truth + torch.tensor([0.0, 50.0])[:, None, None]
    measure = DetectionMetrics()
    assert (
        measure.aggregate(measure.per_image(raw, truth), items)["median/ap"] == 0.5
    )  # the silent picture is the surest
    assert (
        measure.aggregate(measure.per_image(raw * torch.tensor([1.0, 0.01])[:, None, None], truth), items)["median/ap"]
        == 1.0
    )
