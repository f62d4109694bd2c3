"""The interface of an index: five methods over clips with dense features and first-stage vectors."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

from eval.search.compression import Layout
from eval.search.filters import Filter

Side = Literal["image", "audio"]
SIDES: tuple[Side, ...] = ("image", "audio")


@dataclass(frozen=True)
class ClipInfo:
    """What an index says about a clip.

    Attributes:
        id: unique in the index.
        source: name of its data set, or of the folder of its file.
        labels, text: as the data set states them.
        media: shards or file that it was read from.
        number: of the clip in its shards; -1 for a file.
        frame: number of its frame in the clip (shards), or its time in milliseconds (files).
        start_s, end_s: part of the recording.
    """

    id: str
    source: str
    labels: tuple[str, ...]
    text: str
    media: str
    number: int
    frame: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class IndexedClip(ClipInfo):
    """A clip of an index with its features.

    Attributes:
        image, audio: dense features (compression.py); empty if the clip has no picture or no sound.
        image_vector, audio_vector: of the first stage, float32 [D]; None if it has no picture or no sound, and for
            clips that `ClipStore.dense` returns.
    """

    image: bytes
    audio: bytes
    image_vector: Float[np.ndarray, "D"] | None = None
    audio_vector: Float[np.ndarray, "D"] | None = None


@dataclass(frozen=True)
class IndexSettings:
    """What every clip of an index has in common.

    Attributes:
        model_hash: of the weights, modules and input sizes of the model.
        checkpoint: where the model was loaded from, for queries that name none.
        inputs: image_size_px, clip_duration_s and sample_rate_hz of the model.
        layout: of the stored dense features.
        words: of the codebook, float32 [Q, K, C].
        coverage: of the codebook.
        generation: increases when the codebook is fitted anew; vectors of other generations are not searched.
    """

    model_hash: str
    checkpoint: str
    inputs: tuple[int | float, ...]
    layout: Layout
    words: Float[np.ndarray, "Q K C"]
    coverage: float
    generation: int = 0


class Description(NamedTuple):
    """What an index holds.

    Attributes:
        settings: of the index.
        sources: source of each clip, by id, in order of addition.
        pictures, sounds: number of clips with a picture, and with a sound.
    """

    settings: IndexSettings
    sources: dict[str, str]
    pictures: int
    sounds: int


class Neighbor(NamedTuple):
    """A clip of the first stage and its inner product with the query."""

    id: str
    score: float


class ClipStore(Protocol):
    """Clips with two searchable vectors each."""

    def add(self, clips: Sequence[IndexedClip]) -> None:
        """Add clips with their vectors, all or none; a clip with the id of a stored one only replaces its vectors.

        Raises:
            CommandFailed: the storage fails.
        """

    def delete(self, where: Filter) -> int:
        """Delete the clips that a filter selects, and return their number."""

    def nearest(self, side: Side, vector: Float[np.ndarray, "D"], limit: int, where: Filter) -> list[Neighbor]:
        """The clips of the filter whose picture or sound has the largest inner product with a vector, best first.

        Args:
            side: which of a clip's vectors is compared.
            vector: of the query, float32.
            limit: number of clips; fewer if there are not as many.
            where: filter of clips.
        """

    def dense(self, ids: Sequence[str], sides: Collection[Side] = SIDES, info: bool = True) -> list[IndexedClip]:
        """The clips with these ids, in any order; unknown ids are left out.

        Args:
            ids: of the clips.
            sides: whose dense features are read; the others are empty.
            info: whether to read what `ClipInfo` holds; otherwise it is empty but for the id, which is faster.
        """

    def describe(self) -> Description:
        """Settings and content of the index."""
