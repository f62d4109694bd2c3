"""Pairs of a gallery for the report, with the heatmap of each pair."""

from operator import itemgetter

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from eval.benchmarks.examples import select_examples
from eval.benchmarks.retrieval.gallery import Gallery
from eval.metrics.localization import min_max_normalize
from eval.metrics.segmentation import normalize_and_upsample
from eval.results import Example
from model.denseav import DenseAV
from model.features import map_tensors
from pipelines.stream.batch import collate
from pipelines.stream.reader import ClipReader, UnreadableClip


@torch.inference_mode()
def retrieval_examples(task: str, gallery: Gallery, model: DenseAV, ranks: Int[Tensor, "N"]) -> list[Example]:
    """Pairs from the best to the worst rank, evenly spaced; each map, and the heads of each pair, on their own scale.

    Args:
        gallery: encoded by this model.
        ranks: of the image of each audio among all images; 1 is best.
    """
    reader = gallery.reader(model)
    rows = select_examples(-ranks.double())
    features = gallery.encode(model)
    image, audio = (map_tensors(features.image, itemgetter(rows)), map_tensors(features.audio, itemgetter(rows)))
    maps, heads = (model.heatmap(image, audio, per_head=per_head).float().cpu() for per_head in (False, True))
    side_px = model.inputs.image_size_px
    examples = []
    for row, heatmap, by_head in zip(rows, maps, heads, strict=True):
        pair = collate([gallery.item(reader, gallery.clips[row])]).to("cpu")
        low, high = by_head.min().item(), by_head.max().item()
        examples.append(
            Example(
                task=task,
                prompt=clip_caption(reader, gallery.clips[row]),
                image=pair.frames[0].permute(1, 2, 0).numpy(),
                heatmap=min_max_normalize(normalize_and_upsample(heatmap[None], 0.0, 1.0, side_px, side_px))[0].numpy(),
                heads=normalize_and_upsample(by_head, low, high, side_px, side_px).numpy(),
                target=np.zeros((side_px, side_px), bool),
                average_precision=float("nan"),
                waveform=_waveform(gallery, reader, gallery.clips[row]),
                sample_rate_hz=model.inputs.sample_rate_hz,
                rank=int(ranks[row]),
            )
        )
    return examples


def _waveform(gallery: Gallery, reader: ClipReader, clip: int) -> np.ndarray:
    """The audio of a clip, float32 [S]; empty where the data set stores log-mel alone."""
    try:
        return reader.waveform(clip)
    except UnreadableClip:
        if gallery.audio == "waveform":
            raise
        return np.zeros(0, np.float32)


def clip_caption(reader: ClipReader, clip: int) -> str:
    """The id of a clip with its text or its labels."""
    try:
        metadata = reader.metadata(clip)
    except UnreadableClip:
        metadata = {}
    labels = metadata.get("labels")
    text = metadata.get("text") or (", ".join(map(str, labels)) if isinstance(labels, list) else "")
    return f"{reader.index.id(clip)}: {text}" if text else reader.index.id(clip)
