"""Localization metrics against values computed by hand and slow loops; the golden case runs in test_parity.py."""

import math

import numpy as np
import pytest
import torch

from eval.metrics import localization
from eval.metrics.bootstrap import interval, mean_interval
from eval.metrics.detection import confidence, detection
from eval.metrics.mask_iou import HALF, overlap, overlap_curves
from eval.metrics.threshold_selection import best_threshold, validation_mask

# ---------------------------------------------------------------------------------------------- maps


def test_each_map_is_scaled_by_its_own_range_and_a_constant_map_becomes_zero():
    maps = torch.tensor([[[0.0, 2.0]], [[4.0, 8.0]], [[3.0, 3.0]]])
    assert localization.min_max_normalize(maps).tolist() == [[[0.0, 1.0]], [[0.0, 1.0]], [[0.0, 0.0]]]


def test_maps_are_resized_to_224_without_a_shift():
    maps = torch.zeros(1, 7, 7)
    maps[0, 1, 5] = 1
    large = localization.resize_to_224(maps)[0]
    assert large.shape == (224, 224)
    assert divmod(int(large.argmax()), 224) == (pytest.approx(48, abs=1), pytest.approx(176, abs=1))
    full = torch.rand(2, 224, 224)
    assert localization.resize_to_224(full).data_ptr() == full.data_ptr(), "already of that size"
    assert torch.equal(localization.resize_to_224(full), full)


@pytest.mark.parametrize("pixels", [(3, 3), (4, 4)])
def test_median_threshold_is_the_upper_median(pixels):
    maps = torch.rand(5, *pixels)
    for predicted, own in zip(localization.threshold_at_median(maps), maps, strict=True):
        assert torch.equal(predicted, own > sorted(own.flatten().tolist())[own.numel() // 2])
    assert not localization.threshold_at_median(torch.ones(1, 4, 4)).any()


# ---------------------------------------------------------------------------------------------- detection


def _precision_recall(confidence, found, visible, threshold):
    """Precision and recall at one threshold, counted item by item."""
    correct = wrong = undetected = 0
    for c, f, v in zip(confidence, found, visible, strict=True):
        if c >= threshold:
            correct, wrong = correct + bool(f and v), wrong + (not (f and v))
        else:
            undetected += bool(v)
    precision = correct / (correct + wrong) if correct + wrong else 1.0
    return precision, correct / (correct + undetected) if correct + undetected else 1.0


def _slow_detection(confidence, found, visible):
    pairs = [_precision_recall(confidence, found, visible, t) for t in sorted(set(confidence), reverse=True)]
    area, last = 0.0, 0.0
    for index, (_, recall) in enumerate(pairs):
        area, last = area + (recall - last) * max(p for p, _ in pairs[index:]), recall
    tenths = [
        _precision_recall(confidence, found, visible, t) for t in np.sort(confidence)[:: max(1, len(confidence) // 10)]
    ]
    return area, max(2 * p * r / (p + r) if p + r else 0.0 for p, r in tenths)


@pytest.mark.parametrize("levels", [3, 1000])
def test_detection_equals_a_slow_loop_with_and_without_ties(levels):
    rng = np.random.default_rng(levels)
    confidence, found, visible = rng.integers(levels, size=80) / levels, rng.random(80) < 0.5, rng.random(80) < 0.6
    got = detection(torch.from_numpy(confidence), torch.from_numpy(found), torch.from_numpy(visible))
    assert got == pytest.approx(_slow_detection(confidence, found, visible))


def test_detection_by_hand():
    confidence, visible = torch.tensor([0.9, 0.8, 0.7, 0.1]), torch.tensor([True, False, True, True])
    # Thresholds 0.9, 0.8, 0.7, 0.1: precision 1, 1/2, 2/3, 2/4; recall 1/3, 1/3, 2/3, 2/2.
    average_precision, max_f1 = detection(confidence, torch.tensor([True, True, True, False]), visible)
    assert average_precision == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3 + 1 / 3 * 1 / 2)
    assert max_f1 == pytest.approx(2 / 3)


def test_detection_is_one_if_all_are_correct_and_zero_if_all_are_wrong():
    visible = torch.tensor([True, True, False, False])
    assert detection(torch.tensor([0.9, 0.8, 0.2, 0.1]), visible, visible) == (1.0, 1.0)
    assert detection(torch.tensor([0.9, 0.8, 0.2, 0.1]), ~visible, visible) == (0.0, 0.0)


def test_using_all_thresholds_changes_the_published_average_precision_little():
    """The released evaluator uses about 200 thresholds, without the highest."""
    rng = np.random.default_rng(0)
    visible = rng.random(4000) < 0.5
    found, confidence = rng.random(4000) < 0.45, rng.random(4000) + 0.3 * visible
    thresholds = np.sort(confidence)[:-1][:: -(4000 // 200)]
    pairs = [_precision_recall(confidence, found, visible, t) for t in thresholds]
    best = [max(p for p, _ in pairs[i:]) for i in range(len(pairs))]
    published = sum(best[i] * (pairs[i + 1][1] - pairs[i][1]) for i in range(len(pairs) - 1))
    ours = detection(torch.from_numpy(confidence), torch.from_numpy(found), torch.from_numpy(visible))
    assert ours.average_precision == pytest.approx(published, abs=0.005)


def test_confidence_is_the_mean_of_the_largest_quarter_of_the_unscaled_map():
    assert confidence(torch.arange(16.0).view(1, 4, 4)).tolist() == [13.5]
    assert confidence(torch.full((1, 1, 1), 7.0)).tolist() == [7.0]


@pytest.mark.parametrize("confidence", [torch.zeros(0), torch.tensor([math.nan])])
def test_detection_refuses_empty_and_nan_confidences(confidence):
    with pytest.raises(ValueError, match="NaN"):
        detection(
            confidence, torch.zeros(len(confidence), dtype=torch.bool), torch.zeros(len(confidence), dtype=torch.bool)
        )


# ---------------------------------------------------------------------------------------------- masks


def test_overlap_curves_equal_a_slow_loop_over_thresholds():
    maps, truth = torch.randint(255, (3, 6, 6)) / 254, torch.rand(3, 6, 6) < 0.3
    maps[1, 0, 0], maps[1, 0, 1] = 1.0, 0.0
    curves, thresholds = overlap_curves(maps, truth), torch.linspace(0, 1, 255)
    for index, threshold in enumerate(thresholds):
        slow = overlap(maps >= threshold, truth)
        assert torch.allclose(curves.iou[:, index], slow.iou) and torch.allclose(curves.f_score[:, index], slow.f_score)
    assert thresholds[HALF] == 0.5


def test_overlap_by_hand():
    predicted = torch.tensor([[[True, True, False, False]], [[True, False, False, False]]])
    truth = torch.tensor([[[True, False, True, False]], [[False, False, False, False]]])
    result = overlap(predicted, truth)
    assert result.iou.tolist() == pytest.approx([1 / 3, 3 / 4])  # without annotation: the fraction not selected
    assert result.f_score[0].item() == pytest.approx(1.3 * 0.25 / (0.3 * 0.5 + 0.5))
    assert result.f_score[1].isnan()
    assert overlap(~truth[:1], truth[:1]).f_score.tolist() == [0.0]


# ---------------------------------------------------------------------------------------------- thresholds


def test_area_threshold_selects_half_of_an_image_without_annotation():
    maps, nothing = torch.rand(3, 8, 8), torch.zeros(3, 8, 8)
    predicted = localization.threshold_at_area(maps, nothing)
    assert predicted.flatten(1).sum(dim=1).tolist() == [31] * 3
    assert overlap(predicted, nothing > 0).iou.tolist() == [33 / 64] * 3


def test_validation_half_depends_on_names_only():
    names = [f"video{n}" for n in range(2000)]
    half = validation_mask(names)
    assert 0.45 < half.double().mean() < 0.55
    assert torch.equal(validation_mask(names[::-1]).flip(0), half)
    assert (
        validation_mask(["video0", "video1", "video2", "video3", "video4"]).tolist()
        == validation_mask(names[:5]).tolist()
    )


def test_best_threshold_has_the_largest_mean_ignoring_nan():
    curves = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.9, 0.0], [math.nan, math.nan, math.nan]])
    assert best_threshold(curves) == 0  # a mean of 0.55 against 0.5
    assert best_threshold(curves[1:]) == 1 and best_threshold(curves[2:]) == 0


# ---------------------------------------------------------------------------------------------- intervals


def test_interval_of_a_mean_matches_the_normal_distribution():
    values = torch.randn(400, dtype=torch.float64)
    low, high = mean_interval(values, seed=0)
    half_width = 1.96 * values.std().item() / 20
    assert (low, high) == pytest.approx(
        (values.mean().item() - half_width, values.mean().item() + half_width), abs=0.1 * half_width
    )
    assert mean_interval(values, seed=0) == (low, high) != mean_interval(values, seed=1)


def test_interval_agrees_with_mean_interval_also_for_groups():
    values, group = torch.rand(60), torch.arange(60) // 3
    for together in (None, group):
        assert interval(lambda rows: values[rows].double().mean().item(), 60, 3, together) == pytest.approx(
            mean_interval(values, 3, together)
        )


def test_items_of_a_group_are_drawn_together():
    values, group = torch.arange(50.0).repeat_interleave(4), torch.arange(50).repeat_interleave(4)
    alone, together = mean_interval(values, 0), mean_interval(values, 0, group)
    assert together.high - together.low == pytest.approx(2 * (alone.high - alone.low), rel=0.15)


def test_intervals_ignore_nan():
    values = torch.tensor([math.nan, 1.0, 1.0])
    assert mean_interval(values, 0, torch.tensor([5, 7, 9])) == (1.0, 1.0)
    assert all(math.isnan(end) for end in mean_interval(torch.full((3,), math.nan), 0))


def test_about_95_percent_of_intervals_contain_the_true_mean():
    held = sum(
        low <= 0.3 <= high
        for low, high in (mean_interval((torch.rand(100) < 0.3).double(), seed) for seed in range(200))
    )
    assert 180 <= held <= 199
