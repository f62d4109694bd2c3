"""Metrics of a class from counts per image, compared with metrics of all pixels, also for bootstrap draws."""

import math

import numpy as np
import pytest
import torch

from configs.errors import UsageError
from eval.benchmarks.prompted_ade20k.metrics import measure
from eval.metrics.bootstrap import bootstrap_counts, interval, mean_interval, percentile_interval
from eval.metrics.pixel_ap import PixelMetrics
from eval.metrics.segmentation import average_precision, best_iou, normalize_and_upsample
from eval.metrics.threshold_selection import validation_mask

SIDE = 24


def _pictures(count, levels=None, seed=0):
    """Noisy maps [N, P] and the mask of the class; `levels`: number of different scores."""
    rng = np.random.default_rng(seed)
    place, row = rng.uniform(0.2, 0.8, (count, 2, 1, 1)), (np.arange(SIDE) + 0.5) / SIDE
    far = (row[:, None] - place[:, 0]) ** 2 + (row - place[:, 1]) ** 2
    relevant = far < rng.uniform(0.01, 0.06, (count, 1, 1))
    scores = np.exp(-far / 0.05) + rng.uniform(0.2, 1.5, (count, 1, 1)) * rng.random((count, SIDE, SIDE))
    scores = scores if levels is None else np.round(scores * levels / scores.max()) / levels
    return scores.astype(np.float32).reshape(count, -1), relevant.reshape(count, -1)


def _class(scores, relevant, validation=None):
    return PixelMetrics(scores.copy(), relevant, np.zeros(len(scores), bool) if validation is None else validation)


def _iou_above(scores, relevant, threshold):
    kept = scores > threshold
    return (kept & relevant).sum() / max(1, (kept | relevant).sum())


@pytest.mark.parametrize("levels", [None, 30, 1])
def test_class_metrics_equal_those_of_all_pixels(levels):
    scores, relevant = _pictures(7, levels)
    found = _class(scores, relevant)
    flat = torch.from_numpy(scores).flatten(), torch.from_numpy(relevant).flatten()
    assert found.figures.average_precision == pytest.approx(average_precision(*flat), abs=1e-12)
    assert found.figures.iou == pytest.approx(best_iou(*flat), abs=1e-12)
    assert math.isnan(found.figures.iou_chosen)
    alone = [average_precision(torch.from_numpy(s), torch.from_numpy(r)) for s, r in zip(scores, relevant, strict=True)]
    assert found.per_image_ap == pytest.approx(alone, abs=1e-12)


@pytest.mark.parametrize(("count", "levels"), [(9, None), (9, 30), (2, None), (40, 700)])
def test_draw_metrics_equal_those_of_the_drawn_pixels(count, levels):
    scores, relevant = _pictures(count, levels)
    found, thresholds = _class(scores, relevant), torch.linspace(float(scores.min()), float(scores.max()), 20).numpy()
    for weights in bootstrap_counts(count, seed=1)[:25]:
        rows = torch.arange(count).repeat_interleave(weights.long()).numpy()
        resampled = found.resampled(weights[None].numpy())
        exact = average_precision(torch.from_numpy(scores[rows]).flatten(), torch.from_numpy(relevant[rows]).flatten())
        assert resampled.average_precision[0] == pytest.approx(exact, abs=5e-7 if levels == 30 or count == 2 else 5e-4)
        assert resampled.iou[0] == pytest.approx(
            max(_iou_above(scores[rows], relevant[rows], t) for t in thresholds), abs=1e-6
        )


def test_threshold_is_selected_on_validation_images_and_evaluated_on_the_others():
    scores, relevant = _pictures(10)
    validation = np.arange(10) % 3 == 0
    scores[~validation] += 1  # the best threshold differs between the halves
    own = scores[validation]
    tried = torch.linspace(float(own.min()), float(own.max()), 20).numpy()
    chosen = tried[np.argmax([_iou_above(own, relevant[validation], t) for t in tried])]
    found = _class(scores, relevant, validation)
    assert found.figures.iou_chosen == pytest.approx(
        _iou_above(scores[~validation], relevant[~validation], chosen), abs=1e-12
    )
    best = best_iou(torch.from_numpy(scores[~validation]).flatten(), torch.from_numpy(relevant[~validation]).flatten())
    assert found.figures.iou_chosen < best - 0.05
    relevant[validation] = False
    assert math.isnan(_class(scores, relevant, validation).figures.iou_chosen)


def test_draw_without_a_relevant_pixel_gives_nan():
    scores, relevant = _pictures(3)
    relevant[0] = False
    found = _class(scores, relevant)
    assert np.isnan(np.array(found.resampled(np.array([[2.0, 0, 0]], np.float32)))).all()
    assert not np.isnan(found.resampled(np.array([[2.0, 1, 0]], np.float32)).average_precision).any() and math.isnan(
        found.per_image_ap[0]
    )


def _set():
    """24 items of 3 classes and a class without a pixel, two items per image."""
    scores, relevant = _pictures(24, seed=3)
    asked = torch.arange(24) % 3
    asked[5] = 9
    relevant[5] = False
    maps = torch.from_numpy(scores).view(24, SIDE, SIDE)
    return maps, relevant, asked, [f"picture {n // 2}" for n in range(24)]


def _measure(maps, relevant, asked, names, **maps_of_variants):
    return measure({"basic": maps} | maps_of_variants, np.packbits(relevant, axis=1), asked, names, str, SIDE, seed=0)


def test_intervals_equal_recomputing_every_draw():
    maps, relevant, asked, names = _set()
    measured, _ = _measure(maps, relevant, asked, names)
    pixels = normalize_and_upsample(maps, maps.min().item(), maps.max().item(), SIDE, SIDE).flatten(1)
    levels = {c: torch.linspace(float(pixels[asked == c].min()), float(pixels[asked == c].max()), 20) for c in range(3)}

    def mean_over_classes(figure):
        def statistic(rows):
            of_class = {c: rows[asked[rows] == c] for c in range(3)}
            values = [
                figure(c, pixels[own].flatten(), torch.from_numpy(relevant)[own].flatten())
                for c, own in of_class.items()
                if len(own)
            ]
            return float(np.nanmean(values))

        return interval(statistic, 24, 0, group=torch.arange(24) // 2)

    exact = mean_over_classes(lambda _, scores, there: average_precision(scores, there))
    assert measured.intervals["basic/map"] == pytest.approx(exact, abs=1e-3)
    exact = mean_over_classes(
        lambda c, scores, there: max(_iou_above(scores.numpy(), there.numpy(), t) for t in levels[c].numpy())
    )
    assert measured.intervals["basic/miou"] == pytest.approx(exact, abs=1e-3)
    assert all(low < measured.metrics[key] < high for key, (low, high) in measured.intervals.items())


def test_item_and_class_counts_are_reported():
    maps, relevant, asked, names = _set()
    relevant[7] = False
    measured, own = _measure(maps, relevant, asked, names, advanced=maps.flip(0))
    assert measured.items == {
        "classes": 3,
        "classes_without_a_pixel": 1,
        "classes_without_a_pixel_in_one_half": 0,
        "items_without_a_pixel": 2,
        "min_class_items": 1,
        "max_class_items": 8,
    }
    assert (
        own.isnan().nonzero()[:, 0].tolist() == [5, 7]
        and set(measured.per_class) == {"0", "1", "2"}
        and measured.per_class["2"]["items"] == 7
    )
    assert set(measured.metrics) == set(measured.intervals) == set(measured.chance) and len(measured.metrics) == 6


def test_classes_in_one_half_have_no_validation_threshold_and_a_set_without_pixels_is_refused():
    maps, relevant, asked, _ = _set()
    name = next(f"n{n}" for n in range(99) if validation_mask([f"n{n}"]))
    measured, _ = _measure(maps, relevant, asked, [name] * 24)
    assert measured.items["classes_without_a_pixel_in_one_half"] == 3 and set(measured.metrics) == {
        "basic/map",
        "basic/miou",
    }
    with pytest.raises(UsageError, match="none of the classes of the 24 prompts has a pixel"):
        _measure(maps, np.zeros_like(relevant), asked, [name] * 24)


def test_bootstrap_counts_are_the_draws_of_mean_interval():
    values, group = torch.rand(30), torch.arange(30) // 3
    weights = bootstrap_counts(30, 4, group)
    assert (
        weights.shape == (1000, 30) and (weights.sum(dim=1) == 30).all() and (weights[:, ::3] == weights[:, 2::3]).all()
    )
    assert percentile_interval((weights @ values) / 30) == pytest.approx(mean_interval(values, 4, group), abs=1e-6)
    assert percentile_interval(torch.cat([values, torch.full((9,), math.nan)])) == percentile_interval(values)
    assert all(math.isnan(end) for end in percentile_interval(torch.full((3,), math.nan)))
