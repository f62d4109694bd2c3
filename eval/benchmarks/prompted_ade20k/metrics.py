"""Metrics of prompted segmentation from low-resolution maps: mAP and mIoU, means over classes, with 95 % intervals.

Keys: `map`, `miou` (the threshold of each class is the best on its own pixels, as in the reference),
`miou_val_threshold` (the best on about half of a class's images, chosen by their names, evaluated on the others; only
classes with a relevant pixel in both halves). Each thread holds the pixels of one class. Source: reference 1.6.
"""

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
    classes: Int[Tensor, "N"],
    names: Sequence[str],
    class_name: Callable[[int], str],
    size_px: int,
    seed: int,
) -> tuple[BenchmarkResult, Float[Tensor, "N"]]:
    """The metrics of a set of prompted images.

    Args:
        maps: heatmaps by variant, any range, no NaN.
        targets: by np.packbits, the pixels, size_px squared, of the class of the item.
        classes: the class of each item; classes without a pixel are counted, not measured.
        names: of the images. Items of one image are resampled together, and are in the same half.
        class_name: gives the name of a class.
        size_px: side of the images.
        seed: of the bootstrap draws.

    Returns:
        Metrics, and the average precision of each image alone by the first variant, NaN without a relevant pixel.

    Raises:
        UsageError: no class has a pixel.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    weights = bootstrap_counts(len(names), seed, torch.tensor([numbers[name] for name in names])).numpy()
    metrics, chance, intervals, per_class = {}, {}, {}, {}
    precisions = torch.full((len(names),), torch.nan, dtype=torch.float64)
    for variant, low_resolution in maps.items():
        figures, draws, fractions = [], [], []
        for class_id, rows, measured in _classes(low_resolution, targets, classes, validation_mask(names), size_px):
            figures.append(measured.figures)
            draws.append(measured.resampled(weights[:, rows.numpy()]))
            # A map that depends on neither image nor prompt reaches the fraction of pixels of the class.
            fractions.append(measured.relevant.mean() / size_px**2)
            if variant == next(iter(maps)):
                precisions[rows] = torch.from_numpy(measured.per_image_ap)
                ap, iou, _ = map(float, measured.figures)
                per_class[class_name(class_id)] = {"ap": ap, "iou": iou, "items": len(rows)}
        if not figures:
            raise UsageError(f"none of the classes of the {len(names)} prompts has a pixel in the annotations")
        for key, values, resampled in zip(KEYS, zip(*figures, strict=True), zip(*draws, strict=True), strict=True):
            valid = ~np.isnan(values)
            if valid.any():
                metrics[f"{variant}/{key}"] = float(np.array(values)[valid].mean())
                chance[f"{variant}/{key}"] = float(np.array(fractions)[valid].mean())
                means = torch.from_numpy(np.stack(resampled)).double().nanmean(dim=0)
                intervals[f"{variant}/{key}"] = percentile_interval(means)
    sizes = classes.unique(return_counts=True)[1].tolist()
    items = {
        "classes": len(figures),
        "classes_without_a_pixel": len(sizes) - len(figures),
        "classes_without_a_pixel_in_one_half": sum(bool(np.isnan(f.iou_chosen)) for f in figures),
        "items_without_a_pixel": int(precisions.isnan().sum()),
        "min_class_items": min(sizes),
        "max_class_items": max(sizes),
    }
    return BenchmarkResult(metrics, chance, items, per_class, (), intervals), precisions


def _classes(
    maps: Float[Tensor, "N H W"],
    targets: UInt8[np.ndarray, "N bytes"],
    classes: Int[Tensor, "N"],
    validation: Bool[Tensor, "N"],
    size_px: int,
) -> Iterator[tuple[int, Int[Tensor, "n"], PixelMetrics]]:
    """Class, rows of its items, and its metrics; in threads, because numpy sorts on one core."""
    low, high = maps.min().item(), maps.max().item()

    def measure_class(rows: Tensor) -> PixelMetrics | None:
        relevant = np.unpackbits(targets[rows.numpy()], axis=1, count=size_px**2).view(bool)
        if not relevant.any():
            return None
        pixels = normalize_and_upsample(maps[rows], low, high, size_px, size_px).flatten(1).numpy()
        return PixelMetrics(pixels, relevant, validation[rows].numpy())

    rows_by_class = {class_id: (classes == class_id).nonzero()[:, 0] for class_id in classes.unique().tolist()}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for (class_id, rows), measured in zip(
            rows_by_class.items(), pool.map(measure_class, rows_by_class.values()), strict=True
        ):
            if measured:
                yield class_id, rows, measured
