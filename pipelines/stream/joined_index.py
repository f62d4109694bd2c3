"""Several data sets as one source: their clips are numbered one after the other, and all are drawn equally often."""

import bisect
import hashlib
from collections.abc import Sequence
from typing import TypeAlias

from pipelines.stream.index import DatasetIndex, Shard


class JoinedIndex:
    """Data sets as one; see DatasetIndex for methods and attributes.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[DatasetIndex]) -> None:
        self._parts = list(parts)
        self.folders = [part.folder for part in parts]
        self.folder = ", ".join(map(str, self.folders))
        self.caches = [cache for part in parts for cache in part.caches]
        self.fingerprint = hashlib.sha256("".join(part.fingerprint for part in parts).encode()).hexdigest()
        self.first_clips, self._first_shards = [0], [0]
        self.shards: list[Shard] = []
        for part in parts:
            first = self.first_clips[-1]
            self.shards += [Shard(shard.name, first + shard.first_clip, shard.clips) for shard in part.shards]
            self.first_clips.append(first + part.clips)
            self._first_shards.append(len(self.shards))
        self.clips = self.first_clips.pop()
        self._first_shards.pop()

    def id(self, clip: int) -> str:
        """The clip's id."""
        part, clip = self._part_of(clip)
        return part.id(clip)

    def labels(self, clip: int) -> list[str]:
        """The clip's labels."""
        part, clip = self._part_of(clip)
        return part.labels(clip)

    def members(self, clip: int) -> dict[str, tuple[int, int]]:
        """(offset, size) in bytes of each member's data in its tar, by extension."""
        part, clip = self._part_of(clip)
        return part.members(clip)

    def read(self, clip: int, extension: str) -> bytes:
        """A member's bytes; errors as DatasetIndex.read."""
        part, clip = self._part_of(clip)
        return part.read(clip, extension)

    def shard_of(self, clip: int) -> int:
        """The number of the shard that holds a clip."""
        number = bisect.bisect_right(self.first_clips, clip) - 1
        return self._first_shards[number] + self._parts[number].shard_of(clip - self.first_clips[number])

    def _part_of(self, clip: int) -> tuple[DatasetIndex, int]:
        number = bisect.bisect_right(self.first_clips, clip) - 1
        return self._parts[number], clip - self.first_clips[number]


ClipIndex: TypeAlias = DatasetIndex | JoinedIndex
