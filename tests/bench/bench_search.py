"""Search in 100,000 clips on two cores: `python tests/bench/bench_search.py speed | recall | toy RUN`

speed [CLIPS [FOLDER]]: an index (in FOLDER, where it is kept and used again) of CLIPS (100,000) clips of the published
architecture (ViT-S/8 at 224 px: 14 x 14 stored cells, 56 audio steps, 2 heads of 192 channels), 9.8 GB; seconds of a
query with re-ranking, without the encoding of the query. The features are those of 512 synthetic clips, repeated; the
vectors get noise. Target: 0.5 s.

recall [CLIPS]: CLIPS (4,000) different synthetic clips. A clip has one to three of 300 kinds; a kind is a direction in
each head, which some cells and some audio steps have, with noise everywhere. How many of the ten clips with the best
exact dense score (features in float32, 28 x 28 cells) are among the first N of the first stage; how far stored scores
are from exact ones, and from those of features that are pooled and not quantized.

toy RUN: the same for a trained model on the toy world: sounds and pictures of audioset_eval search audioset_train.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from eval.search.build import COMMIT_CLIPS  # noqa: E402
from eval.search.codebook import Codebook, FirstStage, audio_steps, fit_codebook  # noqa: E402
from eval.search.compression import (  # noqa: E402
    Layout,
    compress_audio,
    compress_image,
    restore_audio,
    restore_image,
)
from eval.search.filters import Filter  # noqa: E402
from eval.search.lance_indexes import create_indexes  # noqa: E402
from eval.search.lance_store import LanceStore, read_settings  # noqa: E402
from eval.search.store import IndexedClip, IndexSettings  # noqa: E402
from model.features import AudioFeatures, ImageFeatures, map_tensors  # noqa: E402
from model.similarity import fused  # noqa: E402
from model.similarity.config import SimilarityConfig  # noqa: E402

LAYOUT, SIDE, KINDS, THREADS = Layout(2, 192, 14, 14, 56, False), 28, 300, 2
QUERIES, TOP, CANDIDATES = 21, 10, (10, 50, 200)
CONFIG = SimilarityConfig()


def synthetic(clips: int, seed: int) -> tuple[ImageFeatures, AudioFeatures]:
    """Features of clips of one to three kinds: disks of cells and runs of steps along the direction of a kind."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(KINDS, 2, 192, generator=torch.Generator().manual_seed(0)) / 192**0.5
    cells = 0.6 * torch.randn(clips, 2, 192, SIDE, SIDE, generator=generator) / 192**0.5
    steps = 0.6 * torch.randn(clips, 2, 192, LAYOUT.steps, generator=generator) / 192**0.5
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    for clip in range(clips):
        for _ in range(int(torch.randint(1, 4, (1,), generator=generator))):
            kind = int(torch.randint(KINDS, (1,), generator=generator))
            row, column, radius = (float(value) for value in torch.rand(3, generator=generator))
            disk = (y - row * SIDE) ** 2 + (x - column * SIDE) ** 2 < (2 + 5 * radius) ** 2
            length = 1 + 2 * float(torch.rand((), generator=generator))
            cells[clip, :, :, disk] += length * directions[kind][..., None]
            first = int(torch.randint(LAYOUT.steps - 10, (1,), generator=generator))
            steps[clip, :, :, first : first + 10 + int(30 * radius)] += length * directions[kind][..., None]
    return ImageFeatures(cells), AudioFeatures(steps, torch.ones(clips, LAYOUT.steps, dtype=torch.bool))


def speed(clips: int = 100_000, folder: str = "") -> None:
    """Bytes and seconds of an index."""
    from eval.search.searcher import Searcher

    with tempfile.TemporaryDirectory() as scratch:
        address = folder or f"{scratch}/index"
        if read_settings(address) is None:
            _write_index(address, clips)
        store = LanceStore.open(address)
        stage = FirstStage(Codebook(torch.from_numpy(store.settings.words.copy()), 1.0), CONFIG)
        searcher = Searcher.__new__(Searcher)
        searcher.store, searcher.stage, searcher.layout = store, stage, LAYOUT
        searcher.model = _Similarity()  # type: ignore[assignment]
        image, audio = synthetic(QUERIES, seed=2)
        for what in ("sound", "picture"):
            for where in (Filter(), Filter(("label3",))):
                times = []
                for n in range(QUERIES):
                    one = map_tensors(audio if what == "sound" else image, lambda t, n=n: t[n : n + 1])
                    query = _Query(None, one) if what == "sound" else _Query(one, None)
                    times.append(_timed(searcher, query, where))
                _print_times(f"{what}{', filtered' * (where != Filter())}", np.array(times))
        print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB of memory at most")


def _write_index(address: str, clips: int) -> None:
    """Write an index of repeated synthetic clips, as a build does, and print its size."""
    image, audio = synthetic(512, seed=1)
    blobs = list(zip(compress_image(image, LAYOUT), compress_audio(audio, LAYOUT), strict=True))
    codebook = fit_codebook(audio_steps(audio))
    stage = FirstStage(codebook, CONFIG)
    image_vectors, audio_vectors = stage.image_vectors(image).numpy(), stage.audio_vectors(audio).numpy()
    settings = IndexSettings("hash", "", (224, 10.0, 16000), LAYOUT, codebook.words.numpy(), codebook.coverage)
    store, random = LanceStore.create(address, settings), np.random.default_rng(0)
    started_s, cpu_s = time.perf_counter(), time.process_time()
    for first in range(0, clips, COMMIT_CLIPS):
        noise = random.normal(1, 0.05, (2, COMMIT_CLIPS, len(codebook.words))).astype(np.float32)
        store.add(
            [
                IndexedClip(
                    f"clip{n}", "synthetic", (f"label{n % 10}",), "", "none", n, 0, 0.0, 10.0, *blobs[n % 512],
                    image_vectors[n % 512] * noise[0, n - first], audio_vectors[n % 512] * noise[1, n - first],
                )
                for n in range(first, min(clips, first + COMMIT_CLIPS))
            ]
        )  # fmt: skip
        if first // COMMIT_CLIPS % 40 == 39:
            print(f"{first:,} clips: {time.perf_counter() - started_s:.0f} s", flush=True)
    store.optimize()
    size = sum(file.stat().st_size for file in Path(address).rglob("*") if file.is_file())
    print(
        f"{clips:,} clips added in {time.perf_counter() - started_s:.0f} s ({time.process_time() - cpu_s:.0f} s CPU); "
        f"{size / clips:,.0f} bytes a clip on disk, of which dense features {LAYOUT.clip_bytes:,}",
        flush=True,
    )


class _Similarity:
    """The similarity of a DenseAV without its encoders."""

    def similarity_per_head(self, image: ImageFeatures, audio: AudioFeatures) -> torch.Tensor:
        return fused.similarity_per_head(audio, image, CONFIG)


class _Query:
    """An encoded query."""

    def __init__(self, image: ImageFeatures | None, audio: AudioFeatures | None) -> None:
        self.image, self.audio, self.path, self.kind = image, audio, "", ""

    def image_vector(self, stage: FirstStage) -> np.ndarray:
        assert self.image is not None
        return stage.image_vectors(self.image)[0].numpy()

    def audio_vector(self, stage: FirstStage) -> np.ndarray:
        assert self.audio is not None
        return stage.audio_vectors(self.audio)[0].numpy()


def _timed(searcher, query: _Query, where: Filter) -> list[float]:
    """Seconds of first stage, reading of features, dense scores, reading of results, of all; processor seconds."""
    marks, cpu_s = [time.perf_counter()], time.process_time()
    side = "image" if query.audio is not None else "audio"
    vector = (query.audio_vector if side == "image" else query.image_vector)(searcher.stage)
    found = searcher.store.nearest(side, vector, 200, where)
    marks.append(time.perf_counter())
    clips = searcher.store.dense([one.id for one in found], [side], info=False)
    marks.append(time.perf_counter())
    scores = searcher.dense_scores(query, clips)
    marks.append(time.perf_counter())
    searcher.store.dense(sorted(scores, key=lambda id: -scores[id][side])[:TOP], [side])
    marks.append(time.perf_counter())
    assert len(clips) == 200
    return [*np.diff(marks), marks[-1] - marks[0], time.process_time() - cpu_s]


def _print_times(what: str, times: np.ndarray) -> None:
    parts, later = ("first stage", "features", "dense scores", "ten results", "all", "processor"), times[1:]
    for name, values in (
        ("first query", times[0]), ("median", np.median(later, axis=0)), ("p95", np.quantile(later, 0.95, axis=0))
    ):  # fmt: skip
        print(
            f"{what:<18} {name:<12} "
            + ", ".join(f"{part} {value:.3f}" for part, value in zip(parts, values, strict=True)),
            flush=True,
        )


def recall(clips: int = 4_000) -> None:
    """Recall and precision for synthetic clips of the published architecture."""
    parts = [synthetic(64, seed=10 + n) for n in range(-(-clips // 64))]
    queries = synthetic(QUERIES, seed=9)
    _compare(queries, parts, LAYOUT, f"synthetic, {64 * len(parts):,} clips", CONFIG)


def toy(run: str) -> None:
    """The same for a trained model on the toy world."""
    from eval.benchmarks.retrieval.gallery import Gallery
    from eval.search.encode import layout_of
    from model.hub import from_pretrained

    model = from_pretrained(run)
    encoded = []
    for name, size in (("audioset_eval", 100), ("audioset_train", 1500)):
        with torch.inference_mode():
            image, audio = Gallery(str(ROOT / "data/toy/shards" / name), size, 32, seed=0).encode(model)
        encoded.append((map_tensors(image, torch.Tensor.cpu), map_tensors(audio, torch.Tensor.cpu)))
    image, audio = encoded[1]
    rows = range(0, len(image.dense), 64)
    parts = [tuple(map_tensors(side, lambda t, r=row: t[r : r + 64]) for side in (image, audio)) for row in rows]
    _compare(encoded[0], parts, layout_of(model), f"toy, {len(image.dense):,} clips", model.similarity_config)


@torch.inference_mode()
def _compare(queries, parts, layout: Layout, title: str, config: SimilarityConfig) -> None:
    """Print recall of the first stage and errors of stored scores, for both directions."""
    stored = [
        (restore_image(compress_image(i, layout), layout), restore_audio(compress_audio(a, layout), layout))
        for i, a in parts
    ]
    sample = torch.cat([audio_steps(audio) for _, audio in stored[:16]])
    codebook: Codebook = fit_codebook(sample)
    stage = FirstStage(codebook, config)
    print(f"{title}; {layout.clip_bytes:,} bytes a clip; {len(codebook.words)} words, coverage {codebook.coverage:.3f}")

    def dense(i: ImageFeatures, a: AudioFeatures) -> torch.Tensor:
        return fused.similarity_per_head(a, i, config).sum(-1)

    def pooled(i: ImageFeatures) -> ImageFeatures:
        grid = functional.adaptive_avg_pool2d(i.dense.flatten(1, 2), (layout.height, layout.width))
        return ImageFeatures(grid.unflatten(1, i.dense.shape[1:3]), i.cls)

    image, audio = queries
    ways = {
        "sound finds pictures": (
            torch.cat([dense(i, audio) for i, _ in parts], 1),
            torch.cat([dense(pooled(i), audio) for i, _ in parts], 1),
            torch.cat([dense(i, audio) for i, _ in stored], 1),
            stage.audio_vectors(audio) @ torch.cat([stage.image_vectors(i) for i, _ in stored]).T,
            _mean_vectors(audio) @ torch.cat([i.dense.mean((3, 4)).flatten(1) for i, _ in stored]).T,
            _indexed(torch.cat([stage.image_vectors(i) for i, _ in stored]), stage.audio_vectors(audio)),
        ),
        "picture finds sounds": (
            torch.cat([dense(image, a) for _, a in parts]).T,
            torch.cat([dense(image, a) for _, a in parts]).T,
            torch.cat([dense(image, a) for _, a in stored]).T,
            stage.image_vectors(image) @ torch.cat([stage.audio_vectors(a) for _, a in stored]).T,
            image.dense.mean((3, 4)).flatten(1) @ torch.cat([_mean_vectors(a) for _, a in stored]).T,
            _indexed(torch.cat([stage.audio_vectors(a) for _, a in stored]), stage.image_vectors(image)),
        ),
    }
    for name, (exact, unquantized, quantized, first, means, indexed) in ways.items():
        best, spread = exact.topk(TOP).indices, exact.std()
        print(f"{name}: exact scores {exact.mean():.3f} +- {spread:.3f}")
        stages = {"first stage, exact scan": first, "first stage, IVF_SQ": indexed, "means (not used)": means}
        for what, scores in stages.items():
            print(
                f"  {what}: of the dense top {TOP} "
                + ", ".join(f"{_recall(best, scores, n):.3f} in {n}" for n in CANDIDATES)
            )
        print(f"  re-ranked 200: {_recall(best, _reranked(first, quantized), TOP):.3f} of the exact top {TOP}")
        print(
            f"  stored scores: int8 off by {(quantized - unquantized).abs().mean() / spread:.4f} of the spread "
            f"(largest {(quantized - unquantized).abs().max() / spread:.4f}); with pooling "
            f"{(quantized - exact).abs().mean() / spread:.4f}, correlation with exact "
            f"{torch.corrcoef(torch.stack([quantized.flatten(), exact.flatten()]))[0, 1]:.5f}",
            flush=True,
        )


def _indexed(vectors: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Scores of clips for queries by the index of a large first stage, whatever their number; -inf where not found."""
    out = torch.full((len(queries), len(vectors)), -torch.inf)
    words = np.zeros((vectors.shape[1], 1, 1), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        store = LanceStore.create(f"{folder}/index", IndexSettings("", "", (1, 1.0, 1), LAYOUT, words, 1.0))
        store.add(
            [
                IndexedClip(str(n), "", (), "", "", 0, 0, 0.0, 1.0, b"", b"", image_vector=vector)
                for n, vector in enumerate(vectors.numpy())
            ]
        )
        create_indexes(store._clips, store._vectors, minimum=1)
        for query, scores in zip(queries.numpy(), out, strict=True):
            for one in store.nearest("image", query, max(CANDIDATES), Filter()):
                scores[int(one.id)] = one.score
    return out


def _mean_vectors(audio: AudioFeatures) -> torch.Tensor:
    return ((audio.dense * audio.mask[:, None, None]).sum(-1) / audio.mask.sum(1)[:, None, None]).flatten(1)


def _recall(best: torch.Tensor, scores: torch.Tensor, candidates: int) -> float:
    found = scores.topk(min(candidates, scores.shape[1])).indices
    return float((best[:, :, None] == found[:, None]).any(-1).float().mean())


def _reranked(first: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    keep = torch.zeros_like(first, dtype=torch.bool).scatter_(1, first.topk(min(200, first.shape[1])).indices, True)
    return dense.masked_fill(~keep, -torch.inf)


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    action, *arguments = sys.argv[1:] or ["speed"]
    actions = {"speed": speed, "recall": recall, "toy": toy}
    actions[action](*(int(one) if one.isdigit() else one for one in arguments))
