"""Sound source localization: where in the image does this sound come from? One class for all its data sets."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from configs.errors import CommandFailed
from eval.benchmarks.benchmark import Benchmark, BenchmarkKind
from eval.benchmarks.examples import select_examples
from eval.benchmarks.io import audio_duration_s
from eval.benchmarks.localization.dataset import LocalizationExample, LocalizationSet, read_square_image
from eval.benchmarks.localization.heatmap_sources import (
    HeatmapSource,
    ModelMaps,
    center_prior,
    crop_audio,
    default_device,
    object_guided,
    random_maps,
)
from eval.benchmarks.localization.metrics import LocalizationMetrics, Values
from eval.distributed import distributed_map
from eval.metrics.localization import SIDE_PX, min_max_normalize, resize_to_224
from eval.metrics.segmentation import average_precision
from eval.results import BenchmarkInfo, BenchmarkResult, Example
from model.denseav import DenseAV
from model.upsamplers import Upsampler

VARIANTS = {
    "median": "positive above the median of the map, so on half of the image, as in published tables; objects on less "
    "than a quarter of the image cannot reach a cIoU of 0.5",
    "adaptive": "as many positive pixels as the target has; uses the size of the target",
}


class Localization(Benchmark):
    """Compares heatmaps with annotated regions.

    Args:
        name: `vggss`, `is3`, ...
        data: the data set.
        metrics: what it reports.
        batch_size: items encoded at once.
        seed: of shuffled prompts and intervals.
        upsampler: of the maps; None: bilinear, as published.
    """

    def __init__(
        self,
        name: str,
        data: LocalizationSet,
        metrics: LocalizationMetrics,
        batch_size: int,
        seed: int,
        upsampler: Upsampler | None = None,
    ) -> None:
        super().__init__(name)
        self.upsampler = upsampler
        names = {"shuffled_prompts", "center_prior", "object_prior", "ogl"}
        self.baselines = frozenset(names | ({"bilinear"} if upsampler else set()))
        self.items, self.left_out, self.metrics = data.items, data.left_out, metrics
        self.batch_size, self.seed = batch_size, seed

    def evaluate(self, model: DenseAV, shuffled: bool = False, source: HeatmapSource | None = None) -> BenchmarkResult:
        """Measure the maps of all items.

        Args:
            shuffled: exchange the audio files among the items, drawn by the seed; the regions stay.
            source: gives the maps instead of the model. Chance, examples and intervals are for the model only.

        Raises:
            CommandFailed: maps that are not finite.
            UsageError: a file that cannot be read.
        """
        items = _with_shuffled_audio(self.items, self.seed) if shuffled else self.items
        model_maps = ModelMaps(model, self.upsampler)
        values = self.values(source or model_maps, items)
        result = BenchmarkResult(
            self.metrics.aggregate(values, items), {}, self._counts(values), self._per_class(values)
        )
        if shuffled or source is not None:
            return result
        # Chance has the grid of the model: random maps on a coarser one score higher.
        rows, columns = ModelMaps(model)(items[:1]).shape[1:]
        return result._replace(
            chance=self.metrics.aggregate(self.values(partial(random_maps, rows=rows, columns=columns), items), items),
            examples=[
                self._example(items[row], model_maps, values["ap"][row].item()) for row in select_examples(values["ap"])
            ],
            intervals=self.metrics.intervals(values, items, self.seed),
        )

    def evaluate_baseline(
        self, baseline: str, model: DenseAV, object_prior: HeatmapSource | None = None
    ) -> dict[str, float]:
        """Measure shuffled prompts, bilinear maps or the maps of a prior."""
        if baseline == "shuffled_prompts":
            return self.evaluate(model, shuffled=True).metrics
        sources: dict[str, HeatmapSource] = {"center_prior": center_prior, "bilinear": ModelMaps(model)}
        if object_prior is not None:
            sources |= {
                "object_prior": object_prior,
                "ogl": partial(object_guided, own=ModelMaps(model, self.upsampler), prior=object_prior),
            }
        return self.evaluate(model, source=sources[baseline]).metrics

    @torch.inference_mode()
    def values(self, source: HeatmapSource, items: Sequence[LocalizationExample]) -> dict[str, Tensor]:
        """Values of the metrics for each item, first axis N, and `ap`, the average precision over its pixels (or NaN).

        The batches are distributed over the ranks; every rank gets the values of all items.
        """
        return distributed_map(
            len(items),
            self.batch_size,
            lambda rows: self._batch_values(source, items[rows.start : rows.stop]),
            self.name,
        )

    def _batch_values(self, source: HeatmapSource, batch: Sequence[LocalizationExample]) -> dict[str, Tensor]:
        device = default_device()
        raw = resize_to_224(source(batch).float().to(device))
        broken = [item.id for item, heatmap in zip(batch, raw, strict=True) if not heatmap.isfinite().all()]
        if broken:
            raise CommandFailed(
                f"{self.name}: the maps of {len(broken)} of {len(batch)} images in a batch contain values that are not "
                f"finite numbers, first that of {broken[0]}"
            )
        truth = torch.stack([item.region() for item in batch]).to(device)
        precisions = [
            average_precision(heatmap.flatten(), (region > 0).flatten())
            for heatmap, region in zip(raw, truth, strict=True)
        ]
        values = self.metrics.per_image(raw, truth) | {"ap": torch.tensor(precisions)}
        return {key: value.cpu() for key, value in values.items()}

    def _counts(self, values: Values) -> dict[str, int]:
        counts = {
            "items": len(self.items),
            "groups": len({item.group for item in self.items}),
            "without_a_region": int(values["ap"].isnan().sum()),
        }
        durations_s = {item.audio: audio_duration_s(item.audio) for item in self.items if item.second is not None}
        if durations_s:
            # The map of these is that of the whole audio window.
            counts["out_of_range_seconds"] = sum(
                item.second is not None and item.second >= durations_s[item.audio] for item in self.items
            )
        return counts | {f"left_out_{reason}": n for reason, n in self.left_out.items()}

    def _per_class(self, values: Values) -> dict[str, dict[str, float]]:
        """Means over the items that have a region, by label."""
        rows_by_label: dict[str, list[int]] = {}
        for row, item in enumerate(self.items):
            if item.label and not values["ap"][row].isnan():
                rows_by_label.setdefault(item.label, []).append(row)
        return {
            label: {key: values[key][rows].mean().item() for key in ("ap", "iou")} | {"items": len(rows)}
            for label, rows in sorted(rows_by_label.items())
        }

    def _example(self, item: LocalizationExample, maps: ModelMaps, precision: float) -> Example:
        """The item for the report; its map and its heads are scaled separately."""
        window, heads = crop_audio(item, maps.model.inputs), resize_to_224(maps([item], per_head=True)[0]).cpu()
        return Example(
            task=self.name,
            prompt=item.label or item.id,
            image=read_square_image(item.image, SIDE_PX).permute(1, 2, 0).numpy(),
            heatmap=min_max_normalize(resize_to_224(maps([item])))[0].cpu().numpy(),
            heads=min_max_normalize(heads.flatten(0, 1)[None])[0].view(heads.shape).numpy(),
            target=(item.region() > 0).numpy(),
            average_precision=precision,
            waveform=window.waveform[window.mask],
            sample_rate_hz=maps.model.inputs.sample_rate_hz,
        )


def localization_kind(
    info: BenchmarkInfo, data: str, read: Callable[[Path], LocalizationSet], metrics: LocalizationMetrics
) -> BenchmarkKind:
    """A localization benchmark for the registry.

    Args:
        data: name of the published data set.
        read: reads its folder.
    """
    return BenchmarkKind(
        info._replace(variants=VARIANTS),
        (data,),
        lambda name, roots, config, shared: Localization(
            name, read(roots[0]), metrics, config.batch_size, config.seed, shared.upsampler
        ),
    )


def _with_shuffled_audio(items: Sequence[LocalizationExample], seed: int) -> list[LocalizationExample]:
    """Exchange each distinct audio file for another one (a single one stays)."""
    files = list(dict.fromkeys(item.audio for item in items))
    cycle = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
    other = {files[one]: files[next_one] for one, next_one in zip(cycle, cycle[1:] + cycle[:1], strict=True)}
    return [item._replace(audio=other[item.audio]) for item in items]
