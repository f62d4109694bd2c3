"""Average precision and IoU over all pixels of all images of a class, also for bootstrap draws of the images.

Pixels are held once and sorted in place. Only their counts per image at some hundred levels are stored; the metrics of
a draw follow from these. Source: reference 1.6; intervals and thresholds selected on other images are our own.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from eval.metrics.segmentation import count_at_or_above, iou_of_counts, precision_of_sorted, thresholds

# Levels at which the pixels of each image are counted for the average precision of a draw.
LEVELS = 512


class Figures(NamedTuple):
    """Metrics of a class, 0 to 1, one value or one for each draw; NaN without a relevant pixel.

    Attributes:
        average_precision: over all pixels.
        iou: at the best threshold of the class.
        iou_chosen: at a threshold selected on the validation images, over the others; NaN if either half has no
            relevant pixel.
    """

    average_precision: Float[np.ndarray, "*draws"]
    iou: Float[np.ndarray, "*draws"]
    iou_chosen: Float[np.ndarray, "*draws"]


class _Counts(NamedTuple):
    """Pixels of each image that reach each level, and the relevant ones among them."""

    selected: Int[np.ndarray, "N Q"]
    hit: Int[np.ndarray, "N Q"]

    def weighted(self, weights: Float[np.ndarray, "R N"]) -> tuple[Float[np.ndarray, "R Q"], Float[np.ndarray, "R Q"]]:
        return weights @ self.selected.astype(weights.dtype), weights @ self.hit.astype(weights.dtype)


class PixelMetrics:
    """The metrics of one class.

    Args:
        pixels: a heatmap for each image, any range, no NaN; sorted in place, not stored.
        relevant: True where the class is; at least one pixel.
        validation: True for the images on which a threshold is selected.

    Attributes:
        figures: metrics over all images.
        per_image_ap: [N], average precision of each image, NaN without a relevant pixel.
        relevant: [N], number of relevant pixels of each image.
    """

    def __init__(
        self, pixels: Float[np.ndarray, "N P"], relevant: Bool[np.ndarray, "N P"], validation: Bool[np.ndarray, "N"]
    ) -> None:
        positive = [np.sort(image[mask]) for image, mask in zip(pixels, relevant, strict=True)]
        pixels.sort(axis=1)
        self.relevant = np.array([len(scores) for scores in positive])
        self.per_image_ap = np.array(
            [precision_of_sorted(*pair) if len(pair[1]) else np.nan for pair in zip(pixels, positive, strict=True)]
        )
        all_positive = np.sort(np.concatenate(positive))
        assert len(all_positive), "a class without a relevant pixel"
        levels = np.unique(all_positive[np.linspace(0, len(all_positive) - 1, LEVELS).astype(int)])[::-1]
        self._at_levels = _counts(pixels, positive, levels, strictly=False)
        self._fraction_at_level = _fraction_at_level(all_positive, levels)
        self._above = _counts(pixels, positive, thresholds(_ends(pixels)), strictly=True)
        self._test, self._above_chosen = ~validation, None
        if self.relevant[validation].any() and self.relevant[self._test].any():
            counts = _counts(pixels, positive, thresholds(_ends(pixels[:, [0, -1]][validation])), strictly=True)
            best = _iou(counts, self.relevant, validation[None].astype(float))[0].argmax()
            self._above_chosen = _Counts(counts.selected[:, [best]], counts.hit[:, [best]])
        all_pixels = pixels.reshape(-1)
        all_pixels.sort()
        once = np.ones((1, len(pixels)))
        self.figures = Figures(
            np.array(precision_of_sorted(all_pixels, all_positive)),
            _iou(self._above, self.relevant, once)[0].max(),
            self._iou_chosen(once)[0],
        )

    def resampled(self, weights: Float[np.ndarray, "R N"]) -> Figures:
        """The metrics of sets in which each image occurs as often as its weight says.

        The thresholds are those of the full set. Average precision is computed from counts at 512 levels: within 1e-3
        of the value over all pixels, usually 1e-4, and exact if there are fewer different relevant scores.
        """
        selected, hit = self._at_levels.weighted(weights)
        precision = hit / np.maximum(selected, 1)
        # The precision of relevant pixels between two levels is between those of the levels; that of the lower one if
        # the draw has no relevant pixel at the upper one.
        above = np.where(hit[:, :-1] > 0, precision[:, :-1], precision[:, 1:])
        mean = precision.copy()
        mean[:, 1:] += (1 - self._fraction_at_level[1:]) / 2 * (above - precision[:, 1:])
        gained = np.diff(hit, axis=1, prepend=0)
        with np.errstate(invalid="ignore"):
            average_precision = (gained * mean).sum(axis=1) / hit[:, -1]
        iou = np.where(hit[:, -1] > 0, _iou(self._above, self.relevant, weights).max(axis=1), np.nan)
        return Figures(average_precision, iou, self._iou_chosen(weights))

    def _iou_chosen(self, weights: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R"]:
        if self._above_chosen is None:
            return np.full(len(weights), np.nan, weights.dtype)
        test = weights * self._test
        return np.where(test @ self.relevant > 0, _iou(self._above_chosen, self.relevant, test)[:, 0], np.nan)


def _ends(pixels: Float[np.ndarray, "N P"]) -> Float[np.ndarray, "2"]:
    """The smallest and the largest of pixels in ascending order per image."""
    return np.array([pixels[:, 0].min(), pixels[:, -1].max()])


def _counts(
    pixels: Float[np.ndarray, "N P"], positive: list[np.ndarray], levels: Shaped[np.ndarray, "Q"], strictly: bool
) -> _Counts:
    """Counts from all and from the relevant pixels of each image, in ascending order."""
    selected, hit = (
        np.stack([count_at_or_above(scores, levels, strictly) for scores in images]).astype(np.int32)
        for images in (pixels, positive)
    )
    return _Counts(selected, hit)


def _iou(
    counts: _Counts, relevant: Int[np.ndarray, "N"], weights: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, "R Q"]:
    return iou_of_counts(*counts.weighted(weights), weights @ relevant.astype(weights.dtype))


def _fraction_at_level(positive: Shaped[np.ndarray, "M"], levels: Shaped[np.ndarray, "Q"]) -> Float[np.ndarray, "Q"]:
    """Of the relevant pixels from each level (descending) to the next higher one, the fraction exactly at the level.

    Their precision is that of the level.
    """
    at_or_above, above = count_at_or_above(positive, levels), count_at_or_above(positive, levels, strictly=True)
    return ((at_or_above - above) / np.diff(at_or_above, prepend=0)).astype(np.float32)
