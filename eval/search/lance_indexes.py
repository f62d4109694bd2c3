"""LanceDB's indexes of the tables of lance_store.py.

Vectors: IVF_SQ, 8 bits for each dimension. All clips are in one partition, so a search compares every clip; of the best
REFINED times as many as asked for, it reads the vectors. The first ten of 200 clips of a trained model are those of an
exact scan; with one bit for each dimension (IVF_RQ), which is faster, 70 % of them are. Rows added later are compared
by their vectors, and so are all rows of a field without an index. Fields of filters: bitmaps, because a scan of many
small files is slow.
"""

from typing import Any

# A scan of fewer vectors takes less than 0.05 s.
INDEXED_VECTORS = 10_000
REFINED = 3
# Files of fewer rows on average are merged, which leaves the old ones on the disk for readers, so it is rare.
_FILE_ROWS = 128


def create_indexes(clips: Any, vectors: Any, minimum: int = INDEXED_VECTORS) -> None:
    """Make the indexes of both tables anew; IVF_SQ for at least `minimum` vectors."""
    from lancedb.index import Bitmap, BTree, IvfSq, LabelList

    if not vectors.count_rows():
        return
    if vectors.stats()["fragment_stats"]["lengths"]["mean"] < _FILE_ROWS:
        vectors.optimize()
    clips.create_index("id", config=BTree(), replace=True)
    for field, kind in (("generation", Bitmap()), ("source", Bitmap()), ("labels", LabelList())):
        vectors.create_index(field, config=kind, replace=True)
    for field in vectors.schema:
        if not field.name.endswith("_vector"):
            continue
        if vectors.count_rows(f"{field.name} IS NOT NULL") >= minimum:
            vectors.create_index(field.name, config=IvfSq(distance_type="dot", num_partitions=1), replace=True)
