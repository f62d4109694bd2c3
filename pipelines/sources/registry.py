"""The layouts of data sets by `source.kind`."""

from collections.abc import Callable, Iterator

from configs.schema import SourceConfig
from pipelines.manifest import Clip, Rejected
from pipelines.sources import audioset, folder, places_audio, vggsound

SOURCES: dict[str, Callable[[SourceConfig], Iterator[Clip | Rejected]]] = {
    "audioset": audioset.rows,
    "places_audio": places_audio.rows,
    "vggsound": vggsound.rows,
    "folder": folder.rows,
}
