"""Images and tables for experiment trackers: heatmaps, similarity matrices, retrieval results.

Images are uint8 [H_px, W_px, 3].
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from eval.benchmarks.retrieval.benchmark import Retrieval
from eval.benchmarks.retrieval.examples import clip_caption
from eval.benchmarks.retrieval.gallery import Gallery
from eval.report.figures import caption_strip, heatmap_sheet
from eval.results import Example
from model.denseav import DenseAV
from model.features import map_tensors
from model.training.tracking import Media, Table
from pipelines.stream.batch import collate

MATRIX_PAIRS, MATRIX_PX = 48, 480
TABLE_ROWS, TABLE_BEST = 8, 5


def collect_media(model: DenseAV, benchmarks: Mapping[str, object], examples: Sequence[Example]) -> Media:
    """Images and tables of an evaluation of this model.

    Args:
        benchmarks: by name; retrieval gives the image `media/NAME/similarity` and the table `media/NAME/best`.
        examples: of all benchmarks; each task with examples gives the image `media/TASK/heatmaps`.
    """
    tasks = dict.fromkeys(example.task for example in examples)
    images = {f"media/{task}/heatmaps": heatmap_sheet([e for e in examples if e.task == task]) for task in tasks}
    tables = {}
    for name, benchmark in benchmarks.items():
        if isinstance(benchmark, Retrieval):
            scores = _scores(model, benchmark.gallery, MATRIX_PAIRS)[:MATRIX_PAIRS]
            images[f"media/{name}/similarity"] = similarity_matrix(scores)
            tables[f"media/{name}/best"] = retrieval_table(model, benchmark.gallery)
    return Media(images, {}, tables)


def similarity_matrix(scores: Float[Tensor, "A V"]) -> UInt8[np.ndarray, "H_px W_px 3"]:
    """Scores as colors, bright = high; audio runs down, images across, so matching pairs lie on the diagonal."""
    import matplotlib

    low, high = scores.min().item(), scores.max().item()
    colors = matplotlib.colormaps["viridis"](((scores - low) / max(high - low, 1e-12)).cpu().numpy())[..., :3]
    cell_px = max(1, MATRIX_PX // max(scores.shape))
    matrix = np.kron((255 * colors).astype(np.uint8), np.ones((cell_px, cell_px, 1), np.uint8))
    matched = (scores.argmax(dim=1) == torch.arange(len(scores), device=scores.device)).double().mean().item()
    captions = (
        f"{scores.shape[0]} audio clips down, {scores.shape[1]} images across",
        f"scores {low:.3g} to {high:.3g}; recall@1 of images {matched:.0%}",
    )
    return np.vstack([*(caption_strip(text, matrix.shape[1]) for text in captions), matrix])


def retrieval_table(model: DenseAV, gallery: Gallery) -> Table:
    """Image-to-audio retrieval of the first gallery images: rank of the match, best results (`*`: the match)."""
    reader = gallery.reader(model)
    rows = []
    for row, scores in enumerate(_scores(model, gallery, TABLE_ROWS).T):
        ranked = scores.argsort(descending=True, stable=True).tolist()
        best = [
            f"{'* ' if column == row else ''}{clip_caption(reader, gallery.clips[column])} ({scores[column]:.3g})"
            for column in ranked[:TABLE_BEST]
        ]
        image = collate([gallery.item(reader, gallery.clips[row])]).to("cpu").frames[0].permute(1, 2, 0).numpy()
        padding = [""] * (TABLE_BEST - len(best))
        rows.append([image, clip_caption(reader, gallery.clips[row]), ranked.index(row) + 1, *best, *padding])
    return Table(["image", "clip", "rank of its audio", *(f"{rank}." for rank in range(1, TABLE_BEST + 1))], rows)


@torch.inference_mode()
def _scores(model: DenseAV, gallery: Gallery, images: int) -> Float[Tensor, "A V"]:
    """Scores of all audio against the first images, summed over heads as in the retrieval benchmark."""
    image, audio = gallery.encode(model)
    return model.similarity_per_head(map_tensors(image, lambda tensor: tensor[:images]), audio).sum(dim=-1)
