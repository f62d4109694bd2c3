"""Figures of the localization benchmarks from the values of each image: groups, thresholds, intervals, confidence."""

import pytest
import torch
from tiny_localization import KEYS, benchmark, oracle

from eval.benchmarks.localization.dataset import LocalizationExample
from eval.benchmarks.localization.heatmap_sources import random_maps
from eval.benchmarks.localization.metrics import DetectionMetrics, MaskMetrics
from eval.metrics.bootstrap import interval
from eval.metrics.detection import detection
from eval.metrics.threshold_selection import validation_mask


def test_interactive_iou_requires_all_prompts_of_an_image(sets, untrained):
    own = benchmark(sets, "is3_masks")

    def every_second(items):
        maps = oracle(items)
        return torch.stack(
            [
                m if item.image.stem.endswith(item.group.split("_")[0]) else -m
                for m, item in zip(maps, items, strict=True)
            ]
        )

    metrics = own.evaluate(untrained, source=every_second).metrics
    assert metrics["median/ciou"] == 0.5 and metrics["median/iiou"] == 0.0


def test_best_threshold_beats_a_fixed_threshold():
    maps = torch.rand(40, 224, 224) * 0.4
    truth = torch.zeros(40, 224, 224)
    truth[:, :100, :100] = 1
    maps[:, :100, :100] += 0.05
    maps[:, -1, -1] = 1
    items = [LocalizationExample(f"v{n // 5}_{n % 5}", None, None, None, "", f"v{n // 5}", 5.0) for n in range(40)]
    metrics = MaskMetrics()
    figures = metrics.aggregate(metrics.per_image(maps, truth), items)
    assert figures["best_threshold_test/miou"] > figures["threshold_0.5/miou"] == 0.0
    assert figures["best_threshold_val/miou"] == pytest.approx(figures["best_threshold_test/miou"], abs=0.01)
    alone = metrics.aggregate(metrics.per_image(maps[:5], truth[:5]), items[:5])
    assert not any(key.startswith("best_threshold_val") for key in alone)  # one video cannot be split into halves


def test_validation_threshold_is_evaluated_on_the_other_videos():
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
def test_every_metric_lies_in_its_interval(sets, name):
    own = benchmark(sets, name)
    values = own.values(
        lambda items: (
            oracle(items) + 1.5 * random_maps(items, 14, 14).repeat_interleave(16, 1).repeat_interleave(16, 2)
        ),
        own.items,
    )
    figures, intervals = own.metrics.aggregate(values, own.items), own.metrics.intervals(values, own.items, seed=0)
    assert set(figures) == set(intervals) == KEYS[name]
    assert all(low - 1e-9 <= figures[key] <= high + 1e-9 for key, (low, high) in intervals.items())
    assert sum(high - low > 0.01 for low, high in intervals.values()) > len(intervals) / 2
    assert own.metrics.intervals(values, own.items, seed=0) == intervals
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


def test_confidence_uses_unscaled_maps():
    visible = LocalizationExample("a", None, None, None, "", "a", 3.0)
    items = [visible, visible._replace(id="b", in_view=False)]
    truth = torch.zeros(2, 224, 224)
    truth[0, :112] = 1
    raw = torch.rand(2, 224, 224) + 10 * truth + torch.tensor([0.0, 50.0])[:, None, None]
    metrics = DetectionMetrics()
    assert (
        metrics.aggregate(metrics.per_image(raw, truth), items)["median/ap"] == 0.5
    )  # the image without a source has the highest confidence
    assert (
        metrics.aggregate(metrics.per_image(raw * torch.tensor([1.0, 0.01])[:, None, None], truth), items)["median/ap"]
        == 1.0
    )
