"""Prompted segmentation of ADE20K: where in the picture is what a spoken word names, or what makes this sound?

The folder's layout: eval.benchmarks.prompted_ade20k.dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from configs.errors import CommandFailed, UsageError
from eval.benchmarks.prompted_ade20k.dataset import (
    TABLE,
    PromptedExample,
    read_class_names,
    read_frame,
    read_items,
    read_target,
)
from eval.benchmarks.prompted_ade20k.metrics import measure
from eval.benchmarks.sounds import read_waveform
from eval.distributed import distributed_map
from eval.metrics.segmentation import normalize_and_upsample, word_window
from eval.results import BenchmarkResult, Example
from model.denseav import DenseAV
from model.features import AudioFeatures, map_tensors
from model.inputs import InputSpec
from pipelines.stream.augment import pad_or_crop

# Odd: the one in the middle is the median.
EXAMPLES = 5


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
        self._read: dict[int, np.ndarray] = {}

    @property
    def variants(self) -> tuple[str, ...]:
        """`advanced` looks only at the steps of the word, so it exists for speech alone."""
        return ("basic", "advanced") if self.prompt == "speech" else ("basic",)

    @torch.inference_mode()
    def evaluate(
        self, model: DenseAV, shuffled: bool = False, maps: Callable[[Sequence[PromptedExample]], Tensor] | None = None
    ) -> BenchmarkResult:
        """Heatmaps of all items, then the figures of each class over all pixels of its pictures (metrics.py).

        Args:
            shuffled: give every picture the prompt of another one, drawn by the seed; the class asked for stays the picture's own.
            maps: what gives the maps [N, H, W] in place of the model (a prior), the same for every variant.

        Raises:
            CommandFailed: maps that are not finite numbers.
            UsageError: a file that cannot be read, or an annotation of another size than its picture.
        """
        inputs = model.inputs
        if maps is not None:
            return self._measure(dict.fromkeys(self.variants, maps(self.items)), inputs)[0]
        audio = self._encode_prompts(model)
        found, by_head = self._maps(model, audio, shuffled)
        self._check(by_head)
        measured, own = self._measure(found, inputs)
        if shuffled:
            return measured
        examples = self._examples(found["basic"], by_head, own, inputs)
        return measured._replace(
            items=self._counts(audio.mask, inputs.clip_duration_s) | dict(measured.items), examples=examples
        )

    def _measure(self, maps: dict[str, Tensor], inputs: InputSpec) -> tuple[BenchmarkResult, Float[Tensor, "N"]]:
        """Figures of all classes, and the average precision of each picture alone."""
        names = [item.frame.stem for item in self.items]
        asked = torch.tensor([item.class_id for item in self.items])
        return measure(
            maps, self._targets(inputs.image_size_px), asked, names, self._class_name, inputs.image_size_px, self.seed
        )

    def _maps(
        self, model: DenseAV, audio: AudioFeatures, shuffled: bool
    ) -> tuple[dict[str, Tensor], Float[Tensor, "N K H W"]]:
        """The maps [N, H, W] of each variant, and those of each head."""
        inputs, device = model.inputs, next(model.parameters()).device
        order = _derangement(len(self.items), self.seed) if shuffled else torch.arange(len(self.items))
        steps = {"basic": audio.mask[order], "advanced": self._word_windows(audio.mask.shape[1], inputs)[order]}

        def maps_of(rows: range) -> list[Tensor]:
            frames = torch.stack([read_frame(self.items[row].frame, inputs.image_size_px) for row in rows])
            image = map_tensors(model.encode_image(frames.to(device)), Tensor.cpu)
            prompts = map_tensors(audio, lambda tensor: tensor[order[rows]])
            return [
                *(model.heatmap(image, prompts, step_weight=steps[variant][rows]) for variant in self.variants),
                model.heatmap(image, prompts, per_head=True, step_weight=steps["basic"][rows]),
            ]

        *found, by_head = distributed_map(len(self.items), self.batch_size, maps_of, self.name)
        return dict(zip(self.variants, found, strict=True)), by_head

    def _encode_prompts(self, model: DenseAV) -> AudioFeatures:
        device, samples = (
            next(model.parameters()).device,
            round(model.inputs.clip_duration_s * model.inputs.sample_rate_hz),
        )

        def features_of(rows: range) -> AudioFeatures:
            sounds = [
                pad_or_crop(read_waveform(self.items[row].audio, model.inputs.sample_rate_hz), samples) for row in rows
            ]
            waveform, mask = (torch.from_numpy(np.stack(column)).to(device) for column in zip(*sounds, strict=True))
            return map_tensors(model.encode_audio(waveform, mask), Tensor.cpu)

        return AudioFeatures(*distributed_map(len(self.items), self.batch_size, features_of, self.name))

    def _word_windows(self, steps: int, inputs: InputSpec) -> Tensor:
        timing_s = torch.tensor([item.word_s or (0.0, inputs.clip_duration_s) for item in self.items])
        return word_window(timing_s, steps, torch.full((len(self.items),), inputs.clip_duration_s))

    def _targets(self, size_px: int) -> UInt8[np.ndarray, "N bytes"]:
        """The pixels of each item's own class, in the geometry of the pictures, as bits; read once, by all ranks together."""
        if size_px not in self._read:

            def packed(rows: range) -> list[Tensor]:
                return [
                    torch.from_numpy(np.stack([np.packbits(read_target(self.items[row], size_px)) for row in rows]))
                ]

            (targets,) = distributed_map(len(self.items), self.batch_size, packed, f"{self.name}: annotations")
            self._read[size_px] = targets.numpy()
        return self._read[size_px]

    def _check(self, maps: Float[Tensor, "N K H W"]) -> None:
        """Raises CommandFailed: maps that are not finite numbers."""
        broken = (~maps.isfinite()).flatten(1).any(dim=1).nonzero()[:, 0].tolist()
        if broken:
            first = self.items[broken[0]].frame
            raise CommandFailed(
                f"{self.name}: {len(broken)} of {len(maps)} maps hold values that are not finite numbers, first that of {first}"
            )

    def _counts(self, heard: Bool[Tensor, "N T"], clip_s: float) -> dict[str, int]:
        """All of these are measured all the same, but for what is left out: rows that repeat one, and words that begin after the end of their sound."""
        starts_s = torch.tensor([item.word_s[0] if item.word_s else -1.0 for item in self.items])
        beyond = (
            {"out_of_range_words": int((starts_s >= heard.float().mean(dim=1) * clip_s).sum())}
            if self.prompt == "speech"
            else {}
        )
        repeated = {"duplicates": len(self.items) - len(set(self.items))}
        return (
            {"items": len(self.items)} | repeated | beyond | {f"left_out_{why}": n for why, n in self.left_out.items()}
        )

    def _examples(
        self,
        maps: Float[Tensor, "N H W"],
        by_head: Float[Tensor, "N K H W"],
        own: Float[Tensor, "N"],
        inputs: InputSpec,
    ) -> list[Example]:
        """Pictures from best to worst, evenly spaced by their own average precision."""
        ranked = sorted((row for row in range(len(own)) if not own[row].isnan()), key=lambda row: -own[row])
        chosen = (
            [ranked[i] for i in sorted({round(q) for q in np.linspace(0, len(ranked) - 1, EXAMPLES)})] if ranked else []
        )
        side_px = inputs.image_size_px
        return [
            Example(
                task=self.name,
                prompt=self._class_name(self.items[row].class_id),
                image=read_frame(self.items[row].frame, side_px).permute(1, 2, 0).numpy(),
                heatmap=normalize_and_upsample(maps[[row]], maps.min().item(), maps.max().item(), side_px, side_px)[
                    0
                ].numpy(),
                heads=normalize_and_upsample(
                    by_head[row], by_head.min().item(), by_head.max().item(), side_px, side_px
                ).numpy(),
                target=read_target(self.items[row], side_px),
                average_precision=own[row].item(),
                waveform=read_waveform(self.items[row].audio, inputs.sample_rate_hz),
                sample_rate_hz=inputs.sample_rate_hz,
            )
            for row in chosen
        ]

    def _class_name(self, class_id: int) -> str:
        return self.class_names.get(class_id, f"class {class_id}")


def _derangement(count: int, seed: int) -> Tensor:
    """Numbers 0 to count - 1 in a random order in which none keeps its place (one alone must)."""
    cycle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    return order
