"""What to look at while a model trains: maps of prompted pictures, how similar pairs are, what retrieval answers. Pictures are uint8 [H_px, W_px, 3]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eval.benchmarks.gallery import Gallery
from eval.benchmarks.retrieval import Retrieval
from eval.figures import enlarged, outlined, overlay
from eval.results import Example
from model.grounding.denseav import DenseAV, each
from model.training.tracking import Media, Table
from pipelines.stream.reader import ClipReader, UnreadableClip

PANEL_PX = 160
HEADING_PX = 22
MATRIX_PAIRS, MATRIX_PX = 48, 480
TABLE_ROWS, BEST = 8, 5
INK, PAPER = (20, 20, 20), (255, 255, 255)


def media_of(model: DenseAV, benchmarks: Mapping[str, object], examples: Sequence[Example]) -> Media:
    """Pictures and tables of an evaluation that has just been made of this model.

    Args:
        benchmarks: by name; retrieval gives `media/NAME/similarity` and the table `media/NAME/best`, the others nothing.
        examples: of all of them; each task gives `media/TASK/heatmaps`.
    """
    pictures = {f"media/{task}/heatmaps": heatmap_sheet([e for e in examples if e.task == task]) for task in dict.fromkeys(e.task for e in examples)}
    tables = {}
    for name, benchmark in benchmarks.items():
        if isinstance(benchmark, Retrieval):
            pictures[f"media/{name}/similarity"] = similarity_picture(_scores(model, benchmark.gallery, MATRIX_PAIRS)[:MATRIX_PAIRS])
            tables[f"media/{name}/best"] = retrieval_table(model, benchmark.gallery)
    return Media(pictures, {}, tables)


def heatmap_sheet(examples: Sequence[Example]) -> np.ndarray:
    """A row for each example: the picture with the target outlined, the map, each head alone, the target; above it the prompt and its average precision."""
    rows = []
    for example in examples:
        image = enlarged(example.image, PANEL_PX)
        maps = [enlarged(heat, image.shape[1]) for heat in (example.heatmap, *example.heads)]
        target = enlarged(example.target, image.shape[1])
        panels = [outlined(image, target), *(overlay(image, heat) for heat in maps), np.repeat(np.where(target, 255, 0).astype(np.uint8)[..., None], 3, axis=2)]
        titles = [f"{example.prompt}, AP {example.average_precision:.2f}", "map", *(f"head {head}" for head in range(len(example.heads))), "target"]
        rows.append(np.hstack([np.vstack([heading(title, panel.shape[1]), panel]) for title, panel in zip(titles, panels, strict=True)]))
    width_px = max(row.shape[1] for row in rows)
    return np.vstack([np.pad(row, ((0, 0), (0, width_px - row.shape[1]), (0, 0)), constant_values=255) for row in rows])


def similarity_picture(scores: Float[Tensor, "A V"]) -> np.ndarray:
    """Scores as colours, bright is high; sounds run down, pictures across, so own pairs lie on the diagonal."""
    import matplotlib

    low, high = scores.min().item(), scores.max().item()
    colors = matplotlib.colormaps["viridis"](((scores - low) / max(high - low, 1e-12)).cpu().numpy())[..., :3]
    cell_px = max(1, MATRIX_PX // max(scores.shape))
    matrix = np.kron((255 * colors).astype(np.uint8), np.ones((cell_px, cell_px, 1), np.uint8))
    own = (scores.argmax(dim=1) == torch.arange(len(scores), device=scores.device)).double().mean().item()
    said = (f"{scores.shape[0]} sounds down, {scores.shape[1]} pictures across", f"scores {low:.3g} to {high:.3g}; {own:.0%} of the sounds find their picture")
    return np.vstack([*(heading(text, matrix.shape[1]) for text in said), matrix])


def retrieval_table(model: DenseAV, gallery: Gallery) -> Table:
    """Which sounds a picture finds: the first pictures of the gallery, each with the place of its own sound and the best ones, own ones marked with *."""
    reader = ClipReader(gallery.index, *model.inputs)
    scores = _scores(model, gallery, TABLE_ROWS).T
    rows = []
    for row, own in enumerate(scores):
        ranked = own.argsort(descending=True, stable=True).tolist()
        best = [f"{'* ' if column == row else ''}{_said(reader, gallery.clips[column])} ({own[column]:.3g})" for column in ranked[:BEST]]
        picture = gallery.item(reader, gallery.clips[row]).frame.permute(1, 2, 0).numpy()
        rows.append([picture, _said(reader, gallery.clips[row]), ranked.index(row) + 1, *best, *[""] * (BEST - len(best))])
    return Table(["picture", "clip", "place of its own sound", *(f"{place}." for place in range(1, BEST + 1))], rows)


def heading(text: str, width_px: int) -> np.ndarray:
    """A strip with one line of text, cut where it does not fit."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (width_px, HEADING_PX), PAPER)
    ImageDraw.Draw(strip).text((3, 3), text, fill=INK, font=ImageFont.load_default(size=13))
    return np.asarray(strip)


@torch.inference_mode()
def _scores(model: DenseAV, gallery: Gallery, pictures: int) -> Float[Tensor, "A V"]:
    """Of all sounds against the first pictures, summed over heads as retrieval is measured."""
    image, audio = gallery.encode(model)
    return model.scores_by_head(each(image, lambda tensor: tensor[:pictures]), audio).sum(dim=-1)


def _said(reader: ClipReader, clip: int) -> str:
    """A clip's id with its text or its labels."""
    try:
        described = reader.metadata(clip)
    except UnreadableClip:
        described = {}
    labels = described.get("labels")
    said = described.get("text") or (", ".join(map(str, labels)) if isinstance(labels, list) else "")
    return f"{reader.index.id(clip)}: {said}" if said else reader.index.id(clip)
