"""What prompted segmentation reports: mAP and mIoU, means over classes, with their 95 % intervals, from low-resolution maps.

Keys: `map`, `miou` (each class's threshold is the best on its own pixels, as in the reference), `miou_val_threshold` (the best on about half of a
class's pictures, by the name of the picture, judged on the others; only classes with a relevant pixel in both halves). Pixels are held of one class
on each thread. Source: reference 1.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from configs.errors import UsageError
from eval.metrics.bootstrap import bootstrap_counts, percentile_interval
from eval.metrics.pixel_ap import PixelMetrics
from eval.metrics.segmentation import normalize_and_upsample
from eval.metrics.threshold_selection import validation_mask
from eval.results import BenchmarkResult

KEYS = ("map", "miou", "miou_val_threshold")


def measure(
    maps: Mapping[str, Float[Tensor, "N H W"]],
    targets: UInt8[np.ndarray, "N bytes"],
    asked: Int[Tensor, "N"],
    names: Sequence[str],
    class_name: Callable[[int], str],
    size_px: int,
    seed: int,
) -> tuple[BenchmarkResult, Float[Tensor, "N"]]:
    """The figures of a set.

    Args:
        maps: heatmaps by variant, any range, no NaN.
        targets: as np.packbits makes them, the pixels, size_px squared, where the class that is asked for is.
        asked: the class of each item; classes without a pixel are counted, not measured.
        names: of the items' pictures. Items of one picture are drawn together, and are in the same half.
        class_name: in words.
        size_px: side of the pictures.
        seed: of the draws for intervals.

    Returns:
        Figures, and each picture's own average precision by the first variant, NaN without a relevant pixel.

    Raises:
        UsageError: no class has a pixel.
    """
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    weights = bootstrap_counts(len(names), seed, torch.tensor([places[name] for name in names])).numpy()
    metrics, chance, intervals, per_class = {}, {}, {}, {}
    own = torch.full((len(names),), torch.nan, dtype=torch.float64)
    for variant, low_resolution in maps.items():
        found, drawn, shares = {}, [], []
        for class_id, rows, measured in _classes(low_resolution, targets, asked, validation_mask(names), size_px):
            found[class_id] = measured.figures
            drawn.append(measured.drawn(weights[:, rows.numpy()]))
            # A map blind to picture and prompt reaches the class's share of the pixels.
            shares.append(measured.relevant.mean() / size_px**2)
            if variant == next(iter(maps)):
                own[rows] = torch.from_numpy(measured.per_image_ap)
                per_class[class_name(class_id)] = {
                    "ap": float(measured.figures[0]),
                    "iou": float(measured.figures[1]),
                    "items": len(rows),
                }
        if not found:
            raise UsageError(
                f"none of the classes that the {len(names)} prompts ask for has a pixel in the annotations"
            )
        for key, values, draws in zip(KEYS, zip(*found.values(), strict=True), zip(*drawn, strict=True), strict=True):
            counted = ~np.isnan(values)
            if counted.any():
                metrics[f"{variant}/{key}"] = float(np.array(values)[counted].mean())
                chance[f"{variant}/{key}"] = float(np.array(shares)[counted].mean())
                intervals[f"{variant}/{key}"] = percentile_interval(
                    torch.from_numpy(np.stack(draws)).double().nanmean(dim=0)
                )
    sizes = [len(rows) for rows in _rows_of_classes(asked).values()]
    items = {
        "classes": len(found),
        "classes_without_a_pixel": len(sizes) - len(found),
        "classes_without_a_pixel_in_one_half": sum(np.isnan(figures.iou_chosen).item() for figures in found.values()),
        "items_without_a_pixel": int(own.isnan().sum()),
        "min_class_items": min(sizes),
        "max_class_items": max(sizes),
    }
    return BenchmarkResult(metrics, chance, items, per_class, (), intervals), own


def _classes(
    maps: Float[Tensor, "N H W"],
    targets: UInt8[np.ndarray, "N bytes"],
    asked: Int[Tensor, "N"],
    validation: Bool[Tensor, "N"],
    size_px: int,
) -> Iterator[tuple[int, Tensor, PixelMetrics]]:
    """Class, rows of its items, its figures; several at once, because numpy sorts on one core."""
    low, high = maps.min().item(), maps.max().item()

    def ranked(rows: Tensor) -> PixelMetrics | None:
        relevant = np.unpackbits(targets[rows.numpy()], axis=1, count=size_px**2).view(bool)
        if not relevant.any():
            return None
        return PixelMetrics(
            normalize_and_upsample(maps[rows], low, high, size_px, size_px).flatten(1).numpy(),
            relevant,
            validation[rows].numpy(),
        )

    rows_of = _rows_of_classes(asked)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for (class_id, rows), measured in zip(rows_of.items(), pool.map(ranked, rows_of.values()), strict=True):
            if measured:
                yield class_id, rows, measured


def _rows_of_classes(asked: Int[Tensor, "N"]) -> dict[int, Tensor]:
    return {class_id: (asked == class_id).nonzero()[:, 0] for class_id in asked.unique().tolist()}
