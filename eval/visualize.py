"""What to look at while a model trains: maps of prompted pictures, how similar pairs are, what retrieval answers. Pictures are uint8 [H_px, W_px, 3]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eval.benchmarks.retrieval.benchmark import Retrieval
from eval.benchmarks.retrieval.examples import clip_caption
from eval.benchmarks.retrieval.gallery import Gallery
from eval.report.figures import caption_strip, heatmap_sheet
from eval.results import Example
from model.denseav import DenseAV
from model.features import map_tensors
from model.training.tracking import Media, Table
from pipelines.stream.reader import ClipReader

MATRIX_PAIRS, MATRIX_PX = 48, 480
TABLE_ROWS, BEST = 8, 5


def media_of(model: DenseAV, benchmarks: Mapping[str, object], examples: Sequence[Example]) -> Media:
    """Pictures and tables of an evaluation that has just been made of this model.

    Args:
        benchmarks: by name; retrieval gives `media/NAME/similarity` and the table `media/NAME/best`, the others nothing.
        examples: of all of them; each task gives `media/TASK/heatmaps`.
    """
    pictures = {
        f"media/{task}/heatmaps": heatmap_sheet([e for e in examples if e.task == task])
        for task in dict.fromkeys(e.task for e in examples)
    }
    tables = {}
    for name, benchmark in benchmarks.items():
        if isinstance(benchmark, Retrieval):
            pictures[f"media/{name}/similarity"] = similarity_picture(
                _scores(model, benchmark.gallery, MATRIX_PAIRS)[:MATRIX_PAIRS]
            )
            tables[f"media/{name}/best"] = retrieval_table(model, benchmark.gallery)
    return Media(pictures, {}, tables)


def similarity_picture(scores: Float[Tensor, "A V"]) -> np.ndarray:
    """Scores as colours, bright is high; sounds run down, pictures across, so own pairs lie on the diagonal."""
    import matplotlib

    low, high = scores.min().item(), scores.max().item()
    colors = matplotlib.colormaps["viridis"](((scores - low) / max(high - low, 1e-12)).cpu().numpy())[..., :3]
    cell_px = max(1, MATRIX_PX // max(scores.shape))
    matrix = np.kron((255 * colors).astype(np.uint8), np.ones((cell_px, cell_px, 1), np.uint8))
    own = (scores.argmax(dim=1) == torch.arange(len(scores), device=scores.device)).double().mean().item()
    said = (
        f"{scores.shape[0]} sounds down, {scores.shape[1]} pictures across",
        f"scores {low:.3g} to {high:.3g}; {own:.0%} of the sounds find their picture",
    )
    return np.vstack([*(caption_strip(text, matrix.shape[1]) for text in said), matrix])


def retrieval_table(model: DenseAV, gallery: Gallery) -> Table:
    """Which sounds a picture finds: the first pictures of the gallery, each with the place of its own sound and the best ones, own ones marked with *."""
    reader = ClipReader(gallery.index, *model.inputs)
    scores = _scores(model, gallery, TABLE_ROWS).T
    rows = []
    for row, own in enumerate(scores):
        ranked = own.argsort(descending=True, stable=True).tolist()
        best = [
            f"{'* ' if column == row else ''}{clip_caption(reader, gallery.clips[column])} ({own[column]:.3g})"
            for column in ranked[:BEST]
        ]
        picture = gallery.item(reader, gallery.clips[row]).frame.permute(1, 2, 0).numpy()
        rows.append(
            [
                picture,
                clip_caption(reader, gallery.clips[row]),
                ranked.index(row) + 1,
                *best,
                *[""] * (BEST - len(best)),
            ]
        )
    return Table(["picture", "clip", "place of its own sound", *(f"{place}." for place in range(1, BEST + 1))], rows)


@torch.inference_mode()
def _scores(model: DenseAV, gallery: Gallery, pictures: int) -> Float[Tensor, "A V"]:
    """Of all sounds against the first pictures, summed over heads as retrieval is measured."""
    image, audio = gallery.encode(model)
    return model.similarity_per_head(map_tensors(image, lambda tensor: tensor[:pictures]), audio).sum(dim=-1)
