"""Clips in an embedded LanceDB: a folder or an object store, read and written by this process without a server.

Tables: `index` (one row: settings and codebook), `clips` (metadata and dense features), `vectors` (first stage, with
the fields that filters use). A clip belongs to the index when its vectors are there, which are written last.

Pictures and vectors are not compressed: LanceDB's own choice saves 6 % of a picture and doubles the time of reading.
Sounds, a quarter as large, are compressed by 6 %: a clip has less than 100,000 bytes with all that belongs to it.
lance_indexes.py makes first stages and filters fast.

The distributed form begins at `lancedb.connect`: with a `db://` address it returns a client of LanceDB Enterprise or
Cloud, whose servers index and search the same tables behind the same methods (add, delete, search). Not used here.
Limits: a local index is written by one process at a time (a lock); in an object store, writers of the same clips
overwrite each other's equal rows, and one that loses a race is told so.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from configs.errors import CommandFailed, UsageError
from eval.search.compression import Layout
from eval.search.filters import Filter
from eval.search.lance_indexes import REFINED, create_indexes
from eval.search.store import SIDES, Description, IndexedClip, IndexSettings, Neighbor, Side

FORMAT = 1
TABLES = ("index", "clips", "vectors")
_COLUMNS = ("id", "source", "labels", "text", "media", "number", "frame", "start_s", "end_s", "image", "audio")
_COMPRESSION = {"image": "none", "audio": "zstd", "image_vector": "none", "audio_vector": "none"}
_UNREAD: dict[str, Any] = {"source": "", "labels": (), "text": "", "media": "", "number": -1, "frame": 0}
_UNREAD |= {"start_s": 0.0, "end_s": 0.0, "image": b"", "audio": b""}
_MESSAGE_CHARACTERS = 200


class LanceStore:
    """An index in LanceDB; implements ClipStore. Create it with `open` or `create`.

    Args:
        address: folder, or URL of an object store.
        settings: of the index.
    """

    def __init__(self, address: str, settings: IndexSettings) -> None:
        self.address, self.settings = address, settings
        with _one_line_errors(address):
            connection = _connect(address)
            self._clips, self._vectors = (connection.open_table(name) for name in TABLES[1:])

    @classmethod
    def open(cls, address: str) -> "LanceStore":
        """Open an index.

        Raises:
            UsageError: there is none, or the folder holds something else.
            CommandFailed: the storage does not answer.
        """
        settings = read_settings(address)
        if settings is None:
            raise UsageError(f"index={address}: there is no index; build=SHARDS or build=FOLDER makes one")
        return cls(address, settings)

    @classmethod
    def create(cls, address: str, settings: IndexSettings) -> "LanceStore":
        """Create an empty index in a new or empty folder.

        Raises:
            CommandFailed: the storage does not answer.
        """
        import pyarrow as pa

        fields: dict[str, Any] = dict.fromkeys(("id", "source", "text", "media"), pa.string())
        fields |= {"labels": pa.list_(pa.string()), "number": pa.int32(), "frame": pa.int32()}
        fields |= {"start_s": pa.float64(), "end_s": pa.float64(), "image": pa.binary(), "audio": pa.binary()}
        clips = pa.schema([_field(name, fields[name]) for name in _COLUMNS])
        with _one_line_errors(address):
            connection = _connect(address)
            connection.create_table("clips", schema=clips, mode="overwrite")
            connection.create_table("vectors", schema=_vector_schema(settings), mode="overwrite")
        write_settings(address, settings)  # last: it makes the folder an index
        return cls(address, settings)

    def add(self, clips: Sequence[IndexedClip]) -> None:
        """See ClipStore."""
        import pyarrow as pa

        if not clips:
            return
        columns = {name: [getattr(clip, name) for clip in clips] for name in _COLUMNS}
        rows = pa.table(columns | {"labels": [list(clip.labels) for clip in clips]}, schema=self._clips.schema)
        vectors = pa.table(
            {
                **{name: columns[name] for name in ("id", "source")},
                "labels": [list(clip.labels) for clip in clips],
                "generation": [self.settings.generation] * len(clips),
                "image_vector": [_float16(clip.image_vector) for clip in clips],
                "audio_vector": [_float16(clip.audio_vector) for clip in clips],
            },
            schema=self._vectors.schema,
        )
        with _one_line_errors(self.address):
            self._clips.merge_insert("id").when_not_matched_insert_all().execute(rows)
            (
                self._vectors.merge_insert(["id", "generation"])
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .execute(vectors, on_bad_vectors="null")  # clips without a frame or without audio
            )

    def delete(self, where: Filter) -> int:
        """See ClipStore."""
        with _one_line_errors(self.address):
            condition = _sql(where) or "true"
            found = self._vectors.count_rows(f"({condition}) AND generation = {self.settings.generation}")
            self._vectors.delete(condition)
            self._clips.delete(condition)
        return int(found)

    def nearest(self, side: Side, vector: Float[np.ndarray, "D"], limit: int, where: Filter) -> list[Neighbor]:
        """See ClipStore."""
        terms = [f"generation = {self.settings.generation}", _sql(where)]
        with _one_line_errors(self.address):
            found = (
                self._vectors.search(vector.astype(np.float16), vector_column_name=f"{side}_vector")
                .distance_type("dot")
                .refine_factor(REFINED)
                .where(" AND ".join(filter(None, terms)), prefilter=True)
                .limit(limit)
                .select(["id", "_distance"])
                .to_arrow()
            )
        # LanceDB leaves out null vectors; its dot distance is 1 - inner product.
        return [Neighbor(row["id"], 1 - row["_distance"]) for row in found.to_pylist()]

    def dense(self, ids: Sequence[str], sides: Collection[Side] = SIDES, info: bool = True) -> list[IndexedClip]:
        """See ClipStore."""
        if not ids:
            return []
        read = {"id", *sides, *(_COLUMNS if info else ())} - {side for side in SIDES if side not in sides}
        with _one_line_errors(self.address):
            query = self._clips.search().where(_sql(Filter(ids=tuple(ids)))).select(sorted(read)).limit(len(ids))
            rows = query.to_arrow().to_pylist()
        clips = [_UNREAD | row for row in rows]
        return [IndexedClip(**clip | {"labels": tuple(clip["labels"])}) for clip in clips]

    def describe(self) -> Description:
        """See ClipStore."""
        current = f"generation = {self.settings.generation}"
        with _one_line_errors(self.address):
            rows = self._vectors.search().where(current).select(["id", "source"]).to_arrow()
            pictures, sounds = (
                int(self._vectors.count_rows(f"{current} AND {side}_vector IS NOT NULL")) for side in ("image", "audio")
            )
        sources = dict(zip(rows["id"].to_pylist(), rows["source"].to_pylist(), strict=True))
        return Description(self.settings, sources, pictures, sounds)

    def activate(self, settings: IndexSettings) -> "LanceStore":
        """Replace the settings and delete vectors of other generations; returns the store with these settings."""
        write_settings(self.address, settings)
        with _one_line_errors(self.address):
            self._vectors.delete(f"generation != {settings.generation}")
        return type(self)(self.address, settings)

    def optimize(self) -> None:
        """Index the clips anew, so that searches are fast; those added later are found without it."""
        with _one_line_errors(self.address):
            create_indexes(self._clips, self._vectors)


def read_settings(address: str) -> IndexSettings | None:
    """The settings of an index; None if the address is new or an empty folder.

    Raises:
        UsageError: a folder of something else, or an index of another version.
        CommandFailed: the storage does not answer.
    """
    folder = Path(address)
    if "://" not in address:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"index={address} is a file; give a folder")
        if not folder.is_dir() or not any(folder.iterdir()):
            return None
    with _one_line_errors(address):
        connection = _connect(address)
        names = set(connection.list_tables(limit=100).tables)
        if "index" not in names:
            if "://" not in address and any(one.suffix != ".lance" for one in folder.iterdir()):
                raise UsageError(f"index={address} is a folder of other files; give a new folder, or that of an index")
            return None
        row = connection.open_table("index").search().limit(1).to_arrow().to_pylist()[0]
    return _settings_of_row(address, row)


def write_settings(address: str, settings: IndexSettings) -> None:
    """Store the settings of an index in place of older ones, atomically."""
    import pyarrow as pa

    values = dataclasses.asdict(settings) | {"format": FORMAT, "shape": settings.words.shape}
    del values["words"]
    columns = {"settings": [json.dumps(values)], "words": [settings.words.astype(np.float32).tobytes()]}
    table = pa.table(columns, schema=pa.schema([("settings", pa.string()), ("words", pa.large_binary())]))
    with _one_line_errors(address):
        _connect(address).create_table("index", table, mode="overwrite")


def _settings_of_row(address: str, row: dict[str, Any]) -> IndexSettings:
    try:
        values = json.loads(row["settings"])
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        words = np.frombuffer(row["words"], np.float32).reshape(values.pop("shape"))
        layout, inputs = Layout(*values.pop("layout")), tuple(values.pop("inputs"))
        return IndexSettings(**values, layout=layout, inputs=inputs, words=words)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"index={address} was not written by this version ({error}); build it anew") from None


def _vector_schema(settings: IndexSettings) -> Any:
    import pyarrow as pa

    layout = settings.layout
    size = len(settings.words) if len(settings.words) else layout.heads * layout.channels
    vector = pa.list_(pa.float16(), size)
    fields = {"id": pa.string(), "source": pa.string(), "labels": pa.list_(pa.string()), "generation": pa.int32()}
    fields |= {"image_vector": vector, "audio_vector": vector}
    return pa.schema([_field(name, kind) for name, kind in fields.items()])


def _field(name: str, kind: Any) -> Any:
    import pyarrow as pa

    compression = _COMPRESSION.get(name)
    return pa.field(name, kind, metadata={"lance-encoding:compression": compression} if compression else None)


def _float16(vector: Float[np.ndarray, "D"] | None) -> Any:
    return None if vector is None else np.clip(vector, -65504, 65504).astype(np.float16)


def _sql(where: Filter) -> str:
    """The filter as SQL; LanceDB quotes each text. Empty for all clips."""
    from lancedb.expr import lit

    quoted: Callable[[str], str] = lambda text: lit(text).to_sql()  # noqa: E731
    terms = [f"array_has(labels, {quoted(label)})" for label in where.labels]
    terms += [
        f"{column} IN ({', '.join(map(quoted, values))})"
        for column, values in (("source", where.sources), ("id", where.ids))
        if values
    ]
    return " AND ".join(terms)


def _connect(address: str) -> Any:
    """A LanceDB connection; for a plain-HTTP endpoint of S3, as the variables of AWS's own tools name it."""
    lancedb = import_lancedb()
    options = {}
    if "://" in address:
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        options = {"allow_http": "true"} if endpoint.startswith("http://") else {}
        options |= {"aws_endpoint": endpoint} if endpoint else {}
        options |= {"client_max_retries": "2", "client_retry_timeout": "20", "connect_timeout": "10s"}
    return lancedb.connect(address, storage_options=options or None)


def import_lancedb() -> Any:
    """The module.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("LANCEDB_LOG", "error")  # it announces each new table as a warning
    try:
        import lancedb
    except ImportError:
        raise UsageError("eval.search needs LanceDB: pip install 'denseav-trainer[search]'") from None
    return lancedb


@contextmanager
def _one_line_errors(address: str) -> Iterator[None]:
    """LanceDB raises errors of many classes, with traces of its own in their text."""
    try:
        yield
    except (UsageError, CommandFailed):
        raise
    except (RuntimeError, OSError, ValueError) as error:
        text = " ".join(str(error).split())
        raise CommandFailed(f"index={address}: {text[:_MESSAGE_CHARACTERS]}") from None
