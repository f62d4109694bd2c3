"""Searcher: answers queries from an index in two stages.

First stage: the clips with the largest inner product with the query's vector (codebook.py). Second stage: the best of
them get their dense score, as in the retrieval benchmarks (per-head scores summed over heads), from the stored
features. A sound finds pictures, a picture finds sounds; a video finds both: the clips that either finds, by the mean
of both scores, or by the only one that a clip without a picture or without a sound can have.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from configs.errors import UsageError
from eval.search.build import check_model, first_stage
from eval.search.compression import restore_audio, restore_image
from eval.search.filters import Filter
from eval.search.lance_store import LanceStore
from eval.search.query import Query, read_query, window_weights
from eval.search.store import IndexedClip, Side
from model.denseav import DenseAV
from model.similarity.fused.share_work import share_work

# Clips whose features a thread restores and scores at a time: 5 MB in float32, so that they stay in the cache.
PART_CLIPS = 16


class Match(NamedTuple):
    """A clip that a query found.

    Attributes:
        clip: the clip; of its dense features, it has those that were compared with the query.
        score: dense score or, without re-ranking, the first stage's; any range.
        first_stage_rank: its best rank in the first stage, from 1.
        found_by: what was compared with the query: image, audio or both.
    """

    clip: IndexedClip
    score: float
    first_stage_rank: int
    found_by: tuple[Side, ...]


class Searcher:
    """An index with its model.

    Args:
        store: of the clips.
        model: that the index was built with.
    """

    def __init__(self, store: LanceStore, model: DenseAV) -> None:
        self.store, self.model = store, model
        self.stage, self.layout = first_stage(store.settings, model), store.settings.layout

    @classmethod
    def open(cls, address: str, checkpoint: str = "") -> "Searcher":
        """Open an index and load its model.

        Args:
            address: folder or URL of the index.
            checkpoint: as model.hub.load_pretrained; empty: the one that the index was built with.

        Raises:
            UsageError: no index, an empty one, no model, or another model than that of the index.
            CommandFailed: the storage does not answer.
        """
        from model.hub import load_pretrained

        store = LanceStore.open(address)
        checkpoint = checkpoint or store.settings.checkpoint
        model = load_pretrained(checkpoint).model
        check_model(store.settings, model, address, checkpoint)
        return cls(store, model)

    def read_query(self, path: Path) -> Query:
        """Read and encode a sound, picture or video. Raises UsageError: see query.read_query."""
        return read_query(path, self.model)

    @torch.inference_mode()
    def search(self, query: Query, top_k: int = 10, rerank: int = 200, where: Filter | None = None) -> list[Match]:
        """The best clips for a query, best first; fewer than `top_k` if the index or the filter has fewer.

        Args:
            query: from `read_query`.
            top_k: number of clips.
            rerank: candidates of each first stage that get their dense score, at least `top_k`; 0: none.
            where: filter of clips; None: all.

        Raises:
            UsageError: no clip can be found, because the index is empty or no clip passes the filter.
            CommandFailed: the storage fails.
        """
        where = where or Filter()
        limit = max(top_k, rerank) if rerank else top_k
        ranks: dict[str, dict[Side, int]] = {}
        scores: dict[str, dict[Side, float]] = {}
        vectors: dict[Side, Tensor] = {}
        if query.audio is not None:
            vectors["image"] = torch.from_numpy(query.audio_vector(self.stage))
        if query.image is not None:
            vectors["audio"] = torch.from_numpy(query.image_vector(self.stage))
        for side, vector in vectors.items():
            for rank, neighbor in enumerate(self.store.nearest(side, vector.numpy(), limit, where), start=1):
                ranks.setdefault(neighbor.id, {})[side] = rank
                scores.setdefault(neighbor.id, {})[side] = neighbor.score
        if not ranks:
            raise UsageError(self._why_nothing(query, where))
        if rerank:
            scores = self.dense_scores(query, self.store.dense(list(ranks), vectors, info=False))
        clips = {clip.id: clip for clip in self.store.dense(_best(scores, top_k), vectors)}
        best = _best({id: scores[id] for id in clips}, top_k)
        return [Match(clips[id], _mean(scores[id]), min(ranks[id].values()), tuple(scores[id])) for id in best]

    def dense_scores(self, query: Query, clips: Sequence[IndexedClip]) -> dict[str, dict[Side, float]]:
        """Dense scores of stored clips for each direction that query and clip have, by id and side of the clip."""
        scores: dict[str, dict[Side, float]] = {clip.id: {} for clip in clips}
        parts: list[tuple[Side, Sequence[IndexedClip]]] = []
        if query.audio is not None:
            parts += [("image", part) for part in _parts([clip for clip in clips if clip.image])]
        if query.image is not None:
            parts += [("audio", part) for part in _parts([clip for clip in clips if clip.audio])]

        def run(items: Iterator[tuple[Side, Sequence[IndexedClip]]]) -> None:
            for side, part in items:
                for clip, score in zip(part, self._score(side, query, part).tolist(), strict=True):
                    scores[clip.id][side] = score

        if parts:
            share_work(run, parts, torch.device("cpu"))
        return scores

    def _score(self, side: Side, query: Query, clips: Sequence[IndexedClip]) -> Float[Tensor, "N"]:
        """Scores of the pictures of N clips for the sound of a query, of several windows, or the other way round."""
        if side == "image":
            assert query.audio is not None
            image = restore_image([clip.image for clip in clips], self.layout)
            per_window = self.model.similarity_per_head(image, query.audio).sum(dim=-1)
            return window_weights(query.audio) @ per_window
        assert query.image is not None
        audio = restore_audio([clip.audio for clip in clips], self.layout)
        return self.model.similarity_per_head(query.image, audio).sum(dim=-1)[:, 0]

    def _why_nothing(self, query: Query, where: Filter) -> str:
        about = self.store.describe()
        if not about.sources:
            return f"index={self.store.address} is empty; add clips with build=SHARDS or build=FOLDER"
        if where != Filter():
            return f"no clip of index={self.store.address} passes the filter where={_describe(where)}"
        wanted = "pictures" if query.audio is not None else "sounds"
        return (
            f"query={query.path} is a {query.kind}, which finds {wanted}; index={self.store.address} has "
            f"{about.pictures} clips with a picture and {about.sounds} with a sound"
        )


def _parts(clips: Sequence[IndexedClip]) -> list[Sequence[IndexedClip]]:
    return [clips[first : first + PART_CLIPS] for first in range(0, len(clips), PART_CLIPS)]


def _best(scores: dict[str, dict[Side, float]], top_k: int) -> list[str]:
    """Ids by decreasing score, equal ones by id."""
    return sorted(scores, key=lambda id: (-_mean(scores[id]), id))[:top_k]


def _mean(scores: dict[Side, float]) -> float:
    return sum(scores.values()) / len(scores)


def _describe(where: Filter) -> str:
    terms = zip(("label", "source", "id"), where, strict=True)
    return ",".join(f"{name}={value}" for name, values in terms for value in values)
