"""Prompted segmentation of ADE20K: where in the image is what a spoken word names, or what makes this sound?

The folder's layout: eval.benchmarks.prompted_ade20k.dataset.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from configs.errors import CommandFailed, UsageError
from eval.benchmarks.benchmark import Benchmark, BenchmarkKind
from eval.benchmarks.examples import select_examples
from eval.benchmarks.io import read_waveform
from eval.benchmarks.localization.heatmap_sources import HeatmapSource, center_prior
from eval.benchmarks.prompted_ade20k.dataset import (
    TABLE,
    PromptedExample,
    read_class_names,
    read_frame,
    read_items,
    read_target,
)
from eval.benchmarks.prompted_ade20k.metrics import measure
from eval.distributed import distributed_map
from eval.metrics.segmentation import normalize_and_upsample, word_window
from eval.results import BenchmarkInfo, BenchmarkResult, Example
from model.denseav import DenseAV
from model.features import AudioFeatures, map_tensors
from model.inputs import InputSpec
from model.upsamplers import Upsampler
from pipelines.stream.augment import pad_or_crop


class PromptedADE20K(Benchmark):
    """mAP and mIoU of heatmaps, prompted by `speech` or by `sound`.

    Args:
        root: the folder.
        prompt: `speech` or `sound`.
        batch_size: items encoded at once.
        seed: of shuffled prompts and intervals.
        name: empty: `ade20k_speech` or `ade20k_sound`.
        upsampler: of the maps; None: bilinear, as published.

    Raises:
        UsageError: no such folder or table, a missing column, or no usable row.
    """

    def __init__(
        self,
        root: str | Path,
        prompt: str,
        batch_size: int,
        seed: int,
        name: str = "",
        upsampler: Upsampler | None = None,
    ) -> None:
        super().__init__(name or f"ade20k_{prompt}")
        self.upsampler = upsampler
        self.baselines = frozenset({"shuffled_prompts", "center_prior"} | ({"bilinear"} if upsampler else set()))
        self.prompt, self.batch_size, self.seed = prompt, batch_size, seed
        self.left_out: Counter[str] = Counter()
        self.items = list(read_items(Path(root), prompt, self.left_out))
        if not self.items:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.left_out.items()) or "it is empty"
            raise UsageError(f"{root}: no usable row in {TABLE} ({reasons})")
        self.class_names = read_class_names(Path(root) / "class_names.csv")
        self._targets_by_size: dict[int, np.ndarray] = {}

    @property
    def variants(self) -> tuple[str, ...]:
        """`advanced` uses only the audio steps of the word, so it exists for speech alone."""
        return ("basic", "advanced") if self.prompt == "speech" else ("basic",)

    @torch.inference_mode()
    def evaluate(
        self,
        model: DenseAV,
        shuffled: bool = False,
        is_bilinear: bool = False,
        source: Callable[[Sequence[PromptedExample]], Tensor] | None = None,
    ) -> BenchmarkResult:
        """Measure the heatmaps of all items, over all pixels of a class (metrics.py).

        Args:
            shuffled: exchange the prompts among the images, drawn by the seed; the class to find stays the image's own.
            is_bilinear: leave the upsampler out.
            source: gives the maps [N, H, W] of every variant instead of the model.

        Raises:
            CommandFailed: maps that are not finite.
            UsageError: a file that cannot be read, or an annotation of another size than its image.
        """
        inputs = model.inputs
        if source is not None:
            return self._measure(dict.fromkeys(self.variants, source(self.items)), inputs)[0]
        prompts = self._encode_prompts(model)
        maps, per_head = self._maps(model, prompts, shuffled, None if is_bilinear else self.upsampler)
        self._check_finite(per_head)
        result, precisions = self._measure(maps, inputs)
        if shuffled or is_bilinear:
            return result
        return result._replace(
            items=self._counts(prompts.mask, inputs.clip_duration_s) | dict(result.items),
            examples=[
                self._example(row, maps["basic"], per_head, precisions[row].item(), inputs)
                for row in select_examples(precisions)
            ],
        )

    def evaluate_baseline(
        self,
        baseline: str,
        model: DenseAV,
        object_prior: HeatmapSource | None = None,  # noqa: ARG002
    ) -> dict[str, float]:
        """Measure shuffled prompts, bilinear maps or the center prior."""
        source = center_prior if baseline == "center_prior" else None
        return self.evaluate(model, baseline == "shuffled_prompts", baseline == "bilinear", source).metrics

    def _measure(self, maps: dict[str, Tensor], inputs: InputSpec) -> tuple[BenchmarkResult, Float[Tensor, "N"]]:
        """Metrics over all classes, and the average precision of each image alone."""
        size_px = inputs.image_size_px
        return measure(
            maps,
            self._targets(size_px),
            classes=torch.tensor([item.class_id for item in self.items]),
            names=[item.frame.stem for item in self.items],
            class_name=self._class_name,
            size_px=size_px,
            seed=self.seed,
        )

    def _maps(
        self, model: DenseAV, audio: AudioFeatures, shuffled: bool, upsampler: Upsampler | None
    ) -> tuple[dict[str, Tensor], Float[Tensor, "N K H W"]]:
        """Maps [N, H, W] of each variant, upsampled if `upsampler` is set, and grid maps of each head."""
        inputs, device = model.inputs, next(model.parameters()).device
        size = None if upsampler is None else (inputs.image_size_px, inputs.image_size_px)
        order = _derangement(len(self.items), self.seed) if shuffled else torch.arange(len(self.items))
        duration_s = torch.full((len(self.items),), inputs.clip_duration_s)
        word_s = torch.tensor([item.word_s or (0.0, inputs.clip_duration_s) for item in self.items])
        windows = word_window(word_s, audio.mask.shape[1], duration_s)
        steps = {"basic": audio.mask[order], "advanced": windows[order]}

        def maps_of_batch(rows: range) -> dict[str, Tensor]:
            frames = torch.stack([read_frame(self.items[row].frame, inputs.image_size_px) for row in rows]).to(device)
            image = model.encode_image(frames)
            prompts = map_tensors(audio, lambda tensor: tensor[order[rows]].to(device))
            maps = {
                variant: model.heatmap(
                    image, prompts, size, step_weight=steps[variant][rows], upsampler=upsampler, frames=frames
                )
                for variant in self.variants
            }
            maps["per_head"] = model.heatmap(image, prompts, per_head=True, step_weight=steps["basic"][rows])
            return {name: values.cpu() for name, values in maps.items()}

        maps = distributed_map(len(self.items), self.batch_size, maps_of_batch, self.name)
        return maps, maps.pop("per_head")

    def _encode_prompts(self, model: DenseAV) -> AudioFeatures:
        inputs, device = model.inputs, next(model.parameters()).device

        def encode_batch(rows: range) -> dict[str, Tensor]:
            padded = [
                pad_or_crop(read_waveform(self.items[row].audio, inputs.sample_rate_hz), inputs.samples) for row in rows
            ]
            waveform, mask = (torch.from_numpy(np.stack(column)).to(device) for column in zip(*padded, strict=True))
            features = model.encode_audio(waveform, mask)
            return {name: tensor.cpu() for name, tensor in features._asdict().items() if tensor is not None}

        return AudioFeatures(**distributed_map(len(self.items), self.batch_size, encode_batch, self.name))

    def _targets(self, size_px: int) -> UInt8[np.ndarray, "N bytes"]:
        """The pixels of each item's class, in the geometry of the frames, as bits; read once, on all ranks together."""
        if size_px not in self._targets_by_size:

            def pack_batch(rows: range) -> dict[str, Tensor]:
                bits = [np.packbits(read_target(self.items[row], size_px)) for row in rows]
                return {"bits": torch.from_numpy(np.stack(bits))}

            packed = distributed_map(len(self.items), self.batch_size, pack_batch, f"{self.name}: annotations")
            self._targets_by_size[size_px] = packed["bits"].numpy()
        return self._targets_by_size[size_px]

    def _check_finite(self, maps: Float[Tensor, "N K H W"]) -> None:
        """Raises CommandFailed: maps with values that are not finite."""
        broken = (~maps.isfinite()).flatten(1).any(dim=1).nonzero()[:, 0].tolist()
        if broken:
            raise CommandFailed(
                f"{self.name}: {len(broken)} of {len(maps)} maps contain values that are not finite numbers, first "
                f"that of {self.items[broken[0]].frame}"
            )

    def _counts(self, mask: Bool[Tensor, "N T"], duration_s: float) -> dict[str, int]:
        """Counts of items, of repeated rows and words beyond their audio (both measured), and of rows left out."""
        counts = {"items": len(self.items), "duplicates": len(self.items) - len(set(self.items))}
        if self.prompt == "speech":
            starts_s = torch.tensor([item.word_s[0] if item.word_s else -1.0 for item in self.items])
            counts["out_of_range_words"] = int((starts_s >= mask.float().mean(dim=1) * duration_s).sum())
        return counts | {f"left_out_{reason}": n for reason, n in self.left_out.items()}

    def _example(
        self,
        row: int,
        maps: Float[Tensor, "N H W"],
        per_head: Float[Tensor, "N K h w"],
        precision: float,
        inputs: InputSpec,
    ) -> Example:
        """An item for the report; maps are on the scale of the whole set."""
        item, side_px = self.items[row], inputs.image_size_px
        upsample = partial(normalize_and_upsample, height_px=side_px, width_px=side_px)
        return Example(
            task=self.name,
            prompt=self._class_name(item.class_id),
            image=read_frame(item.frame, side_px).permute(1, 2, 0).numpy(),
            heatmap=upsample(maps[[row]], maps.min().item(), maps.max().item())[0].numpy(),
            heads=upsample(per_head[row], per_head.min().item(), per_head.max().item()).numpy(),
            target=read_target(item, side_px),
            average_precision=precision,
            waveform=read_waveform(item.audio, inputs.sample_rate_hz),
            sample_rate_hz=inputs.sample_rate_hz,
        )

    def _class_name(self, class_id: int) -> str:
        return self.class_names.get(class_id, f"class {class_id}")


def _kind(prompt: str, question: str, variants: Mapping[str, str] = MappingProxyType({})) -> BenchmarkKind:
    terms = (
        "ADE20K: non-commercial research and education by the terms of its site, we believe; the selection and the "
        "spoken words are by DenseAV's authors, for which we know of no stated terms; the sounds are VGGSound's."
    )

    return BenchmarkKind(
        BenchmarkInfo(question, f"{prompt}-prompted ADE20K", terms, variants),
        ("prompted_ade20k",),
        lambda name, roots, config, shared: PromptedADE20K(
            roots[0], prompt, config.batch_size, config.seed, name, shared.upsampler
        ),
    )


ADE20K_SPEECH = _kind(
    "speech",
    "Where is what a spoken word names?",
    {
        "basic": "all valid audio steps of the clip count",
        "advanced": "only audio steps within 0.2 s of the word count",
    },
)
ADE20K_SOUND = _kind("sound", "Where does this sound come from?")


def _derangement(count: int, seed: int) -> Tensor:
    """A random order of 0 to count - 1 without fixed points (a single item keeps its place)."""
    cycle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    return order
