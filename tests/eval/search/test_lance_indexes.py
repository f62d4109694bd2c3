"""An index of many clips: the first stage by IVF_SQ finds what an exact scan finds, whatever is added or deleted."""

import shutil

import numpy as np
import pytest

from eval.search.compression import Layout
from eval.search.filters import Filter
from eval.search.lance_indexes import INDEXED_VECTORS
from eval.search.lance_store import LanceStore
from eval.search.store import SIDES, IndexedClip, IndexSettings

CLIPS, SIZE, FOUND = INDEXED_VECTORS + 2000, 64, 200
RANDOM = np.random.default_rng(0)
QUERY = RANDOM.random(SIZE, np.float32)


def _clips(first, last, vectors):
    """Every eighth clip has no sound."""
    return [
        IndexedClip(
            f"clip{n}", f"source{n % 2}", (f"label{n % 10}",), "", "", n, 0, 0.0, 1.0, b"picture", b"sound",
            image_vector=vectors[n - first], audio_vector=None if n % 8 == 0 else vectors[n - first][::-1],
        )
        for n in range(first, last)
    ]  # fmt: skip


def _ids(store, side="image", limit=FOUND, where=None, vector=QUERY):
    return [one.id for one in store.nearest(side, vector, limit, where or Filter())]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An index with the results of exact scans, which were made before it had indexes."""
    words = np.zeros((SIZE, 1, 8), np.float32)
    settings = IndexSettings("hash", "", (32, 1.0, 16000), Layout(1, 8, 1, 1, 1, False), words, 1.0)
    store = LanceStore.create(str(tmp_path_factory.mktemp("large") / "index"), settings)
    store.add(_clips(0, CLIPS, RANDOM.gamma(1, 1, (CLIPS, SIZE)).astype(np.float32)))
    exact = {side: _ids(store, side) for side in SIDES}
    store.optimize()
    return store, exact


@pytest.fixture
def changed(large, tmp_path):
    """The index for a test to change."""
    shutil.copytree(large[0].address, tmp_path / "index")
    return LanceStore.open(str(tmp_path / "index"))


def test_the_first_stage_of_many_clips_has_the_best_of_an_exact_scan(large):
    store, exact = large
    kinds = [index.index_type for index in store._vectors.list_indices()]
    assert kinds.count("IvfSq") == 2
    for side in SIDES:
        found = _ids(store, side)
        assert len(found) == FOUND and found[:5] == exact[side][:5]
        assert (
            len(set(found) & set(exact[side])) > 0.8 * FOUND
        )  # these vectors have no structure, unlike those of sounds and pictures


def test_scores_of_the_first_stage_are_inner_products(large):
    store, _ = large
    found = store.nearest("audio", QUERY, 5, Filter())
    assert all(one.score == pytest.approx(_score(store, one.id), rel=2e-3) for one in found)


def _score(store, id):
    row = store._vectors.search().where(f"id = '{id}'").to_arrow().to_pylist()[0]
    return float(np.array(row["audio_vector"]) @ QUERY)


def test_a_limit_beyond_the_clips_finds_all_that_have_the_side(large):
    store, _ = large
    assert len(_ids(store, "image", 2 * CLIPS)) == CLIPS
    assert len(_ids(store, "audio", 2 * CLIPS)) == CLIPS - CLIPS // 8


def test_filters_select_among_all_clips_not_among_the_best(large):
    store, _ = large
    for where, wanted in (
        (Filter(labels=("label3",)), {f"clip{n}" for n in range(3, CLIPS, 10)}),
        (Filter(labels=("label3",), sources=("source1",)), {f"clip{n}" for n in range(3, CLIPS, 10)}),
        (Filter(labels=("label3",), sources=("source0",)), set()),
        (Filter(ids=("clip7", "clip9")), {"clip7", "clip9"}),
    ):
        assert set(_ids(store, "image", CLIPS, where)) == wanted
        assert len(_ids(store, "image", FOUND, where)) == min(FOUND, len(wanted))


def test_clips_added_after_the_index_are_found_and_filtered(changed):
    changed.add(_clips(CLIPS, CLIPS + 20, np.full((20, SIZE), 50, np.float32)))
    new = {f"clip{n}" for n in range(CLIPS, CLIPS + 20)}
    assert set(_ids(changed)[:20]) == new
    assert set(_ids(changed, where=Filter(labels=("label3",)))[:2]) == {f"clip{CLIPS + 3}", f"clip{CLIPS + 13}"}
    changed.optimize()
    assert set(_ids(changed)[:20]) == new


def test_deleted_clips_are_found_no_more_and_others_take_their_place(changed):
    before = _ids(changed)
    assert changed.delete(Filter(ids=tuple(before[:3]))) == 3
    assert _ids(changed)[:5] == before[3:8] and len(_ids(changed)) == FOUND
    assert changed.delete(Filter(sources=("source1",))) > CLIPS // 2 - 4
    assert {int(id[4:]) % 2 for id in _ids(changed)} == {0} and len(_ids(changed)) == FOUND


def test_a_replaced_vector_is_found_by_the_new_one_alone(changed):
    last = _ids(changed, limit=CLIPS)[-1]
    number = int(last[4:])
    changed.add(_clips(number, number + 1, np.full((1, SIZE), 50, np.float32)))
    found = _ids(changed, limit=CLIPS)
    assert found[0] == last and found.count(last) == 1 and len(found) == CLIPS


def test_many_small_files_are_merged(tmp_path):
    words = np.zeros((SIZE, 1, 8), np.float32)
    settings = IndexSettings("hash", "", (32, 1.0, 16000), Layout(1, 8, 1, 1, 1, False), words, 1.0)
    store = LanceStore.create(str(tmp_path / "index"), settings)
    for n in range(5):
        store.add(_clips(n, n + 1, RANDOM.random((1, SIZE), np.float32)))
    before = _ids(store)
    store.optimize()
    assert store._vectors.stats()["fragment_stats"]["num_fragments"] == 1
    assert _ids(store) == before and len(before) == 5
