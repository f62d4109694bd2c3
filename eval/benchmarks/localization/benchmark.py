"""Sound source localisation: where in the picture does this sound come from? One class for all sets; eval.benchmarks.localization.dataset says what a set is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from configs.errors import CommandFailed
from eval.benchmarks.localization.dataset import LocalizationExample, LocalizationSet, read_picture
from eval.benchmarks.localization.heatmap_sources import MapSource, ModelMaps, RandomMaps, crop_audio, default_device
from eval.benchmarks.localization.metrics import Measure
from eval.benchmarks.sounds import sound_length_s
from eval.distributed import distributed_map
from eval.metrics.localization import SIDE_PX, min_max_normalize, resize_to_224
from eval.metrics.segmentation import average_precision
from eval.results import BenchmarkResult, Example
from model.denseav import DenseAV

# Odd: the one in the middle is the median.
EXAMPLES = 5


class Localization:
    """Measures where maps are bright.

    Args:
        name: `vggss`, `is3`, ...
        found: the set.
        measure: what it reports.
        batch_size: pictures at once.
        seed: of the shuffled prompts.
    """

    prompted = True

    def __init__(self, name: str, found: LocalizationSet, measure: Measure, batch_size: int, seed: int) -> None:
        self.name, self.items, self.left_out, self.measure = name, found.items, found.left_out, measure
        self.batch_size, self.seed = batch_size, seed

    def evaluate(self, model: DenseAV, shuffled: bool = False, maps: MapSource | None = None) -> BenchmarkResult:
        """Maps of all items, their values, the figures of the set.

        Args:
            shuffled: every sound is exchanged for another one, drawn by the seed; the regions stay.
            maps: what gives the maps in place of the model (a prior, a mixture); chance and pictures are for the model's own.

        Raises:
            CommandFailed: maps that are not numbers.
            UsageError: a file that cannot be read.
        """
        items = _with_other_sounds(self.items, self.seed) if shuffled else self.items
        source = maps or ModelMaps(model)
        values = self.values(source, items)
        measured = BenchmarkResult(
            self.measure.aggregate(values, items), {}, self._counts(values), self._classes(values)
        )
        if shuffled or maps is not None:
            return measured
        # Chance has the model's own grid: on a coarser one luck goes further.
        chance = self.values(RandomMaps(*source(items[:1]).shape[1:]), items)
        return measured._replace(
            chance=self.measure.aggregate(chance, items),
            examples=self._examples(source, values["ap"]),
            intervals=self.measure.intervals(values, items, self.seed),
        )

    @torch.inference_mode()
    def values(self, maps: MapSource, items: Sequence[LocalizationExample]) -> dict[str, Tensor]:
        """The measure's values of each item, first axis N, and of each picture alone `ap`: average precision over its pixels, NaN without a region.

        On several ranks each works on its share of the batches, and gets the values of all items.
        """
        names: list[str] = []

        def of_batch(rows: range) -> list[Tensor]:
            values = self._of_pictures(maps, items[rows.start : rows.stop])
            names[:] = values
            return list(values.values())

        columns = distributed_map(len(items), self.batch_size, of_batch, self.name)
        return dict(zip(names, columns, strict=True))

    def _of_pictures(self, maps: MapSource, batch: Sequence[LocalizationExample]) -> dict[str, Tensor]:
        device = default_device()
        raw = resize_to_224(maps(batch).float().to(device))
        broken = [item.id for item, own in zip(batch, raw, strict=True) if not own.isfinite().all()]
        if broken:
            raise CommandFailed(
                f"{self.name}: maps hold values that are not finite numbers, {len(broken)} of {len(batch)} in a batch, first that of {broken[0]}"
            )
        truth = torch.stack([item.region() for item in batch]).to(device)
        values = self.measure.per_image(raw, truth)
        values["ap"] = torch.tensor(
            [average_precision(own.flatten(), (region > 0).flatten()) for own, region in zip(raw, truth, strict=True)]
        )
        return {key: value.cpu() for key, value in values.items()}

    def _counts(self, values: dict[str, Tensor]) -> dict[str, int]:
        counts = {
            "items": len(self.items),
            "groups": len({item.group for item in self.items}),
            "without_a_region": int(values["ap"].isnan().sum()),
        }
        lengths_s = {item.sound: sound_length_s(item.sound) for item in self.items if item.second is not None}
        # Of these all that is heard counts for the map.
        beyond = sum(item.second is not None and item.second >= lengths_s[item.sound] for item in self.items)
        return (
            counts
            | ({"out_of_range_seconds": beyond} if lengths_s else {})
            | {f"left_out_{why}": n for why, n in self.left_out.items()}
        )

    def _classes(self, values: dict[str, Tensor]) -> dict[str, dict[str, float]]:
        """Means of the items that have a region, by what sounds."""
        rows_of: dict[str, list[int]] = {}
        for row, item in enumerate(self.items):
            if item.label and not values["ap"][row].isnan():
                rows_of.setdefault(item.label, []).append(row)
        return {
            label: {
                "ap": values["ap"][rows].mean().item(),
                "iou": values["iou"][rows].mean().item(),
                "items": len(rows),
            }
            for label, rows in sorted(rows_of.items())
        }

    def _examples(self, maps: ModelMaps, own: Tensor) -> list[Example]:
        """Pictures from best to worst, evenly spaced by their own average precision; each map and its heads on a scale of their own."""
        ranked = sorted((row for row in range(len(own)) if not own[row].isnan()), key=lambda row: -own[row])
        chosen = (
            [ranked[i] for i in sorted({round(q) for q in np.linspace(0, len(ranked) - 1, EXAMPLES)})] if ranked else []
        )
        examples = []
        for item, precision in ((self.items[row], own[row].item()) for row in chosen):
            heard, heads = crop_audio(item, maps.model.inputs), resize_to_224(maps.by_head([item])[0]).cpu()
            example = Example(
                task=self.name,
                prompt=item.label or item.id,
                image=read_picture(item.picture, SIDE_PX).permute(1, 2, 0).numpy(),
                heatmap=min_max_normalize(resize_to_224(maps([item])))[0].cpu().numpy(),
                heads=min_max_normalize(heads.flatten(0, 1)[None])[0].view(heads.shape).numpy(),
                target=(item.region() > 0).numpy(),
                average_precision=precision,
                waveform=heard.waveform[heard.mask],
                sample_rate_hz=maps.model.inputs.sample_rate_hz,
            )
            examples.append(example)
        return examples


def _with_other_sounds(items: Sequence[LocalizationExample], seed: int) -> list[LocalizationExample]:
    """Each distinct sound is exchanged for another one (one alone stays)."""
    sounds = list(dict.fromkeys(item.sound for item in items))
    cycle = torch.randperm(len(sounds), generator=torch.Generator().manual_seed(seed)).tolist()
    other = {sounds[one]: sounds[next_one] for one, next_one in zip(cycle, cycle[1:] + cycle[:1], strict=True)}
    return [item._replace(sound=other[item.sound]) for item in items]
