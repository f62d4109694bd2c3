"""Pairs of a gallery to look at: sounds that find their own picture, and sounds that do not; with the map of each pair."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from eval.benchmarks.retrieval.gallery import Gallery
from eval.metrics.localization import min_max_normalize
from eval.metrics.segmentation import normalize_and_upsample
from eval.results import Example
from model.denseav import DenseAV
from model.features import map_tensors
from pipelines.stream.reader import ClipReader, UnreadableClip

# Odd: the one in the middle is the median.
EXAMPLES = 5


@torch.inference_mode()
def retrieval_examples(task: str, gallery: Gallery, model: DenseAV, places: Int[Tensor, "N"]) -> list[Example]:
    """Pairs from best to worst, evenly spaced by the place of the sound's own picture; each map and its heads on a scale of their own.

    Args:
        gallery: encoded by this model.
        places: of each sound's own picture, 1 is best.
    """
    reader = ClipReader(gallery.index, *model.inputs)
    ranked = places.argsort(stable=True)
    rows = ranked[sorted({round(place) for place in np.linspace(0, len(ranked) - 1, EXAMPLES)})]
    image, audio = (map_tensors(part, lambda tensor: tensor[rows.to(tensor.device)]) for part in gallery.encode(model))
    maps, by_head = (model.heatmap(image, audio, per_head=heads).float().cpu() for heads in (False, True))
    side_px, examples = model.inputs.image_size_px, []
    for row, own_map, own_heads in zip(rows.tolist(), maps, by_head, strict=True):
        item = gallery.item(reader, gallery.clips[row])
        example = Example(
            task=task,
            prompt=clip_caption(reader, gallery.clips[row]),
            image=item.frame.permute(1, 2, 0).numpy(),
            heatmap=min_max_normalize(normalize_and_upsample(own_map[None], 0.0, 1.0, side_px, side_px))[0].numpy(),
            heads=normalize_and_upsample(
                own_heads, own_heads.min().item(), own_heads.max().item(), side_px, side_px
            ).numpy(),
            target=np.zeros((side_px, side_px), bool),
            average_precision=float("nan"),
            waveform=item.waveform[item.audio_mask],
            sample_rate_hz=model.inputs.sample_rate_hz,
            place=int(places[row]),
        )
        examples.append(example)
    return examples


def clip_caption(reader: ClipReader, clip: int) -> str:
    """A clip's id with its text or its labels."""
    try:
        metadata = reader.metadata(clip)
    except UnreadableClip:
        metadata = {}
    labels = metadata.get("labels")
    said = metadata.get("text") or (", ".join(map(str, labels)) if isinstance(labels, list) else "")
    return f"{reader.index.id(clip)}: {said}" if said else reader.index.id(clip)
