"""All pixels of all pictures of one class, ranked together: average precision, IoU, and both again for other draws of the same pictures.

The pixels are held once and sorted where they lie. What is kept of them are counts of each picture at some hundred levels, from which the figures of a
bootstrap draw follow without its pixels. Source: reference 1.6; intervals and thresholds chosen on other pictures are our own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from eval.metrics.segmentation import count_at_or_above, iou_of_counts, precision_of_sorted, thresholds

# Levels at which the pixels of each picture are counted for the average precision of a draw.
LEVELS = 512


class Figures(NamedTuple):
    """Average precision, IoU at the best threshold of the class, IoU at a threshold chosen on validation pictures and judged on the others.

    Each 0 to 1, a number or one for each draw; NaN where there is nothing to measure it by: no relevant pixel, for `iou_chosen` in one of the halves.
    """

    average_precision: Float[np.ndarray, "*draws"]
    iou: Float[np.ndarray, "*draws"]
    iou_chosen: Float[np.ndarray, "*draws"]


class _Counts(NamedTuple):
    """Of each picture, the pixels that reach each level, and the relevant ones among them."""

    kept: Int[np.ndarray, "N Q"]
    hit: Int[np.ndarray, "N Q"]

    def drawn(self, weights: Float[np.ndarray, "R N"]) -> tuple[Float[np.ndarray, "R Q"], Float[np.ndarray, "R Q"]]:
        return weights @ self.kept.astype(weights.dtype), weights @ self.hit.astype(weights.dtype)


class PixelMetrics:
    """The figures of one class.

    Args:
        pixels: a heatmap for each picture, any range, no NaN; sorted in place, and not kept.
        relevant: True where the class is; one pixel at least.
        validation: the pictures a threshold is chosen on.

    Attributes:
        figures: of all pictures.
        of_pictures: [N], average precision of each picture alone, NaN where it has no relevant pixel.
        relevant: [N], relevant pixels of each picture.
    """

    def __init__(
        self, pixels: Float[np.ndarray, "N P"], relevant: Bool[np.ndarray, "N P"], validation: Bool[np.ndarray, "N"]
    ) -> None:
        found = [np.sort(own[there]) for own, there in zip(pixels, relevant, strict=True)]
        pixels.sort(axis=1)
        self.relevant = np.array([len(own) for own in found])
        self.per_image_ap = np.array(
            [
                precision_of_sorted(own, there) if len(there) else np.nan
                for own, there in zip(pixels, found, strict=True)
            ]
        )
        together = np.sort(np.concatenate(found))
        assert len(together), "a class without a relevant pixel"
        levels = np.unique(together[np.linspace(0, len(together) - 1, LEVELS).astype(int)])[::-1]
        self._at_levels = _counts(pixels, found, levels, strictly=False)
        self._alone = _share_at_the_level(together, levels)
        self._above = _counts(pixels, found, thresholds(_ends(pixels)), strictly=True)
        self._judged, self._above_chosen = ~validation, None
        if self.relevant[validation].any() and self.relevant[self._judged].any():
            counts = _counts(pixels, found, thresholds(_ends(pixels[:, [0, -1]][validation])), strictly=True)
            best = _iou(counts, self.relevant, validation[None].astype(float))[0].argmax()
            self._above_chosen = _Counts(counts.kept[:, [best]], counts.hit[:, [best]])
        everything = pixels.reshape(-1)
        everything.sort()
        once = np.ones((1, len(pixels)))
        self.figures = Figures(
            np.array(precision_of_sorted(everything, together)),
            _iou(self._above, self.relevant, once)[0].max(),
            self._chosen(once)[0],
        )

    def drawn(self, weights: Float[np.ndarray, "R N"]) -> Figures:
        """The figures of sets in which each picture comes as often as its weight says. Thresholds stay: those of the class, and the chosen one.

        Average precision follows from counts at 512 levels: within 1e-3 of that of all pixels, most often 1e-4; exact for fewer relevant scores than that.
        """
        kept, hit = self._at_levels.drawn(weights)
        precision = hit / np.maximum(kept, 1)
        # Relevant pixels between two levels have a precision between those of the two, or of the lower one where a draw has none at the upper one.
        above = np.where(hit[:, :-1] > 0, precision[:, :-1], precision[:, 1:])
        mean = precision.copy()
        mean[:, 1:] += (1 - self._alone[1:]) / 2 * (above - precision[:, 1:])
        gained = np.diff(hit, axis=1, prepend=0)
        with np.errstate(invalid="ignore"):
            average_precision = (gained * mean).sum(axis=1) / hit[:, -1]
        iou = np.where(hit[:, -1] > 0, _iou(self._above, self.relevant, weights).max(axis=1), np.nan)
        return Figures(average_precision, iou, self._chosen(weights))

    def _chosen(self, weights: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R"]:
        if self._above_chosen is None:
            return np.full(len(weights), np.nan, weights.dtype)
        judged = weights * self._judged
        return np.where(judged @ self.relevant > 0, _iou(self._above_chosen, self.relevant, judged)[:, 0], np.nan)


def _ends(pixels: Float[np.ndarray, "N P"]) -> Float[np.ndarray, "2"]:
    """The smallest and the largest of pixels that are in rising order in each picture."""
    return np.array([pixels[:, 0].min(), pixels[:, -1].max()])


def _counts(
    pixels: Float[np.ndarray, "N P"], found: list[np.ndarray], levels: Shaped[np.ndarray, "Q"], strictly: bool
) -> _Counts:
    """From pixels and relevant ones of each picture, in rising order."""
    return _Counts(
        *(
            np.stack([count_at_or_above(own, levels, strictly) for own in pictures]).astype(np.int32)
            for pictures in (pixels, found)
        )
    )


def _iou(
    counts: _Counts, relevant: Int[np.ndarray, "N"], weights: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, "R Q"]:
    return iou_of_counts(*counts.drawn(weights), weights @ relevant.astype(weights.dtype))


def _share_at_the_level(found: Shaped[np.ndarray, "M"], levels: Shaped[np.ndarray, "Q"]) -> Float[np.ndarray, "Q"]:
    """Of the relevant pixels from each level (falling) up to the next one above, the share that lies on the level itself: their precision is its own."""
    at_or_above, above = count_at_or_above(found, levels), count_at_or_above(found, levels, strictly=True)
    return ((at_or_above - above) / np.diff(at_or_above, prepend=0)).astype(np.float32)
