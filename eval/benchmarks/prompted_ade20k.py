"""Prompted segmentation of ADE20K: where in the picture is what a spoken word names, or what makes this sound?

The folder's layout: eval.benchmarks.prompted_items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from configs.command import UsageError
from eval.benchmarks.prompted_items import TABLE, read_class_names, read_frame, read_items, read_labels, read_waveform
from eval.metrics.segmentation import average_precision, best_iou, heatmaps, heatmaps_by_head, to_pixels, word_window
from eval.parallel import in_batches
from eval.results import Example, Measured
from model.grounding.denseav import AudioFeatures, DenseAV, InputSpec, each
from pipelines.stream.augment import padded
from pipelines.stream.batch import normalized

EXAMPLES = 6


class PromptedADE20K:
    """Measures mAP and mIoU of heatmaps, prompted by `speech` or by `sound`.

    Args:
        root: the folder.
        prompt: `speech` or `sound`.
        batch_size: items encoded at once.
        seed: of the shuffled prompts.

    Raises:
        UsageError: no such folder or table, a missing column, or no usable row.
    """

    prompted = True

    def __init__(self, root: str, prompt: str, batch_size: int, seed: int) -> None:
        self.name, self.prompt, self.batch_size, self.seed = f"ade20k_{prompt}", prompt, batch_size, seed
        self.left_out: Counter[str] = Counter()
        self.items = list(read_items(Path(root), prompt, self.left_out))
        if not self.items:
            raise UsageError(
                f"prompted_ade20k={root}: no usable row in {TABLE} ({', '.join(f'{n} {why}' for why, n in self.left_out.items()) or 'it is empty'})"
            )
        self.class_names = read_class_names(Path(root) / "class_names.csv")
        self._labels: dict[int, Tensor] = {}

    @property
    def variants(self) -> tuple[str, ...]:
        """`advanced` looks only at the steps of the word, so it exists for speech alone."""
        return ("basic", "advanced") if self.prompt == "speech" else ("basic",)

    @torch.inference_mode()
    def evaluate(self, model: DenseAV, shuffled: bool = False) -> Measured:
        """Heatmaps of all items, then AP and best IoU of each class over all pixels of its pictures.

        Args:
            shuffled: give every picture the prompt of another one, drawn by the seed; the class asked for stays the picture's own.
        """
        inputs, device = model.inputs, next(model.parameters()).device
        audio = self._encode_prompts(model, device)
        order = _derangement(len(self.items), self.seed) if shuffled else torch.arange(len(self.items))
        steps = {"basic": audio.mask[order], "advanced": self._word_windows(audio.mask.shape[1], inputs)[order]}

        def maps_of(rows: range) -> list[Tensor]:
            frames = torch.stack([read_frame(self.items[row].frame, inputs.image_size_px) for row in rows])
            image = each(model.encode_image(normalized(frames).to(device)), Tensor.cpu)
            volume = model.paired_volume(image, each(audio, lambda tensor: tensor[order[rows]]))
            return [*(heatmaps(volume, steps[variant][rows]) for variant in self.variants), heatmaps_by_head(volume, steps["basic"][rows])]

        *found, by_head = in_batches(len(self.items), self.batch_size, maps_of, self.name)
        maps = {variant: _to_labels(low_resolution, inputs.image_size_px) for variant, low_resolution in zip(self.variants, found, strict=True)}
        measured = self._measure(maps)
        if shuffled:
            return measured
        return measured._replace(examples=self._examples(maps["basic"], by_head, inputs))

    def labels(self, size_px: int) -> Int[Tensor, "N H_px W_px"]:
        """int32 [N, size_px, size_px]: the class of each pixel, in the geometry of the pictures; read once."""
        if size_px not in self._labels:
            self._labels[size_px] = torch.stack([read_labels(item, size_px) for item in self.items])
        return self._labels[size_px]

    def _encode_prompts(self, model: DenseAV, device: torch.device) -> AudioFeatures:
        samples = round(model.inputs.clip_duration_s * model.inputs.sample_rate_hz)

        def features_of(rows: range) -> AudioFeatures:
            sounds = [padded(read_waveform(self.items[row].audio, model.inputs.sample_rate_hz), samples) for row in rows]
            waveform, mask = (torch.from_numpy(np.stack(column)).to(device) for column in zip(*sounds, strict=True))
            return each(model.encode_audio(waveform, mask), Tensor.cpu)

        return AudioFeatures(*in_batches(len(self.items), self.batch_size, features_of, self.name))

    def _word_windows(self, steps: int, inputs: InputSpec) -> Tensor:
        timing_s = torch.tensor([item.word_s or (0.0, inputs.clip_duration_s) for item in self.items])
        return word_window(timing_s, steps, torch.full((len(self.items),), inputs.clip_duration_s))

    def _by_class(self, labels: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Class, rows of its items, and bool [rows * pixels] True where the class is; classes without a pixel are passed over."""
        asked = torch.tensor([item.class_id for item in self.items])
        for class_id in asked.unique().tolist():
            rows = (asked == class_id).nonzero()[:, 0]
            relevant = (labels[rows] == class_id).flatten()
            if relevant.any():
                yield class_id, rows, relevant

    def _measure(self, maps: dict[str, Tensor]) -> Measured:
        labels = self.labels(next(iter(maps.values())).shape[-1])
        metrics, chance, per_class = {}, {}, {}
        # A map blind to picture and prompt reaches the class's share of the pixels.
        share = float(np.mean([relevant.double().mean().item() for _, _, relevant in self._by_class(labels)]))
        for variant, pixels in maps.items():
            found = {c: (average_precision(pixels[rows].flatten(), r), best_iou(pixels[rows].flatten(), r), len(rows)) for c, rows, r in self._by_class(labels)}
            metrics |= {
                f"{variant}/map": float(np.mean([ap for ap, _, _ in found.values()])),
                f"{variant}/miou": float(np.mean([i for _, i, _ in found.values()])),
            }
            chance |= {f"{variant}/map": share, f"{variant}/miou": share}
            if variant == "basic":
                per_class = {self._class_name(c): {"ap": ap, "iou": iou, "items": count} for c, (ap, iou, count) in found.items()}
        asked = {item.class_id for item in self.items}
        counts = {"items": len(self.items), "classes": len(per_class), "classes_without_a_pixel": len(asked) - len(per_class)}
        return Measured(metrics, chance, counts | {f"left_out_{why}": n for why, n in self.left_out.items()}, per_class)

    def _examples(self, maps: Tensor, by_head: Tensor, inputs: InputSpec) -> list[Example]:
        """Pictures from best to worst, evenly spaced by their own average precision."""
        labels = self.labels(inputs.image_size_px)
        own = {}
        for row, item in enumerate(self.items):
            relevant = (labels[row] == item.class_id).flatten()
            if relevant.any():
                own[row] = average_precision(maps[row].flatten(), relevant)
        ranked = sorted(own, key=lambda row: -own[row])
        chosen = [ranked[i] for i in sorted({round(q) for q in np.linspace(0, len(ranked) - 1, EXAMPLES)})] if ranked else []
        heads = {row: to_pixels(by_head[row], by_head.min().item(), by_head.max().item(), *maps.shape[-2:]) for row in chosen}
        return [
            Example(
                task=self.name,
                prompt=self._class_name(self.items[row].class_id),
                image=read_frame(self.items[row].frame, inputs.image_size_px).permute(1, 2, 0).numpy(),
                heatmap=maps[row].numpy(),
                heads=heads[row].numpy(),
                target=(labels[row] == self.items[row].class_id).numpy(),
                average_precision=own[row],
                waveform=read_waveform(self.items[row].audio, inputs.sample_rate_hz),
                sample_rate_hz=inputs.sample_rate_hz,
            )
            for row in chosen
        ]

    def _class_name(self, class_id: int) -> str:
        return self.class_names.get(class_id, f"class {class_id}")


def _to_labels(maps: Tensor, size_px: int) -> Tensor:
    return to_pixels(maps, maps.min().item(), maps.max().item(), size_px, size_px)


def _derangement(count: int, seed: int) -> Tensor:
    """Numbers 0 to count - 1 in a random order in which none keeps its place (one alone must)."""
    cycle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    return order
