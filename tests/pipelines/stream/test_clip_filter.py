"""Clip filter: excluded ids and selected labels, without changes to the shards."""

import itertools
import json
import multiprocessing
import pickle
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny_shards import clip_members, write_data_set
from tiny_stream import SHORT_AUGMENT

from configs.errors import UsageError
from configs.schema import AugmentConfig, StreamConfig, StreamSourceConfig
from pipelines.stream.clip_filter import select_clips
from pipelines.stream.index import DatasetIndex, Shard
from pipelines.stream.loader import open_stream
from pipelines.stream.member_index import MemberTable

LABELS = (["Speech"], ["Speech", "Dog"], ["Cat"], [])
AUGMENT = AugmentConfig(**SHORT_AUGMENT)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def label(folder: Path) -> Path:
    """Put labels into the JSON files next to the tars, as `pipelines.build` does."""
    for file in folder.glob("train-*.json"):
        content = json.loads(file.read_text())
        for clip in content["members"]:
            clip["labels"] = LABELS[int(clip["id"][-4:]) % 4]
        file.write_text(json.dumps(content))
    return folder


@pytest.fixture
def folder(tmp_path):
    return label(write_data_set(tmp_path / "set", [5, 4, 7]))


def ids_file(path: Path, *ids: str) -> str:
    path.write_text("\n".join(ids) + "\n")
    return str(path)


def select(folder: Path, exclude=(), labels=()) -> DatasetIndex:
    return DatasetIndex.open(folder, select=partial(select_clips, exclude=exclude, labels=labels))


def ids(index: DatasetIndex) -> list[str]:
    return [index.id(clip) for clip in range(index.clips)]


def clips(*numbers: int) -> list[str]:
    return [f"clip{number:04d}" for number in numbers]


def test_excluded_ids_are_removed_and_other_clips_keep_their_members(folder, tmp_path):
    index = select(
        folder,
        [
            ids_file(tmp_path / "a", "clip0000", "clip0006"),
            ids_file(tmp_path / "b", "clip0006", "elsewhere", "clip0015"),
        ],
    )
    assert ids(index) == clips(1, 2, 3, 4, 5, *range(7, 15))
    assert index.shards == [Shard("train-000000", 0, 4), Shard("train-000001", 4, 3), Shard("train-000002", 7, 6)]
    assert [index.shard_of(clip) for clip in (0, 3, 4, 6, 7, 12)] == [0, 0, 1, 1, 2, 2]
    for clip, name in enumerate(ids(index)):
        assert index.read(clip, "flac") == clip_members(int(name[4:]))["flac"]
        assert index.labels(clip) == LABELS[int(name[4:]) % 4]


def test_id_of_a_video_excludes_all_its_clips(tmp_path):
    folder = write_data_set(tmp_path / "set", [6])
    file = folder / "train-000000.json"
    content = json.loads(file.read_text())
    for clip, name in zip(content["members"], ["a_b_0", "a_b_30000", "a_b", "a_b-x", "a_5", "c_0"], strict=True):
        clip["id"] = name
    file.write_text(json.dumps(content))
    assert ids(select(folder, [ids_file(tmp_path / "ids", "a_b")])) == ["a_b-x", "a_5", "c_0"]
    assert ids(select(folder, [ids_file(tmp_path / "ids", "a_b_0", "c")])) == ["a_b_30000", "a_b", "a_b-x", "a_5"]


def test_labels_select_clips_with_any_of_them_and_combine_with_exclude(folder, tmp_path):
    assert ids(select(folder, labels=["Speech"])) == clips(0, 1, 4, 5, 8, 9, 12, 13)
    assert ids(select(folder, labels=["Dog", "Cat"])) == clips(1, 2, 5, 6, 9, 10, 13, 14)
    assert ids(select(folder, [ids_file(tmp_path / "ids", "clip0001")], ["Dog"])) == clips(5, 9, 13)


def test_shard_without_selected_clips_is_empty(folder, tmp_path):
    index = select(folder, [ids_file(tmp_path / "ids", *clips(5, 6, 7, 8))])
    assert [shard.clips for shard in index.shards] == [5, 0, 7]
    assert index.shard_of(4) == 0 and index.shard_of(5) == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["Speach"], r"labels: no clip has the label 'Speach'; similar labels: 'Speech'$"),
        (["Dog", "/m/09x0r"], r"labels: no clip has the label '/m/09x0r'$"),
    ],
)
def test_unknown_label_is_reported_with_similar_labels(folder, labels, message):
    with pytest.raises(UsageError, match=message) as error:
        select(folder, labels=labels)
    assert "\n" not in str(error.value)


def test_selecting_labels_in_shards_without_labels_is_rejected(tmp_path):
    folder = write_data_set(tmp_path / "set", [3])
    with pytest.raises(
        UsageError,
        match=r"labels=\[Dog\]: the JSON files next to the tars contain no labels.*build the data set again",
    ) as error:
        select(folder, labels=["Dog"])
    assert "\n" not in str(error.value)
    assert ids(select(folder, [ids_file(tmp_path / "ids", "clip0001")])) == clips(0, 2)


def test_empty_selection_and_missing_id_list_give_one_line_errors(folder, tmp_path):
    with pytest.raises(UsageError, match="exclude and labels select none of its clips") as error:
        select(folder, [ids_file(tmp_path / "ids", *clips(*range(16)))])
    assert str(folder) in str(error.value)
    with pytest.raises(UsageError, match=r"exclude=.* cannot be read: no such file"):
        select(folder, [str(tmp_path / "none")])


def test_fingerprint_depends_on_the_selected_clips_only(folder, tmp_path):
    unfiltered = DatasetIndex.open(folder).fingerprint
    without = select(folder, [ids_file(tmp_path / "a", "clip0001")]).fingerprint
    assert without == select(folder, [ids_file(tmp_path / "b", "elsewhere", "clip0001")]).fingerprint
    assert (
        len(
            {
                unfiltered,
                without,
                select(folder, labels=["Dog"]).fingerprint,
                select(folder, labels=["Cat"]).fingerprint,
            }
        )
        == 4
    )
    assert DatasetIndex.open(folder).fingerprint == unfiltered
    assert DatasetIndex.open(folder).clips == 16
    assert select(folder, labels=["Cat"]).fingerprint == select(folder, labels=["Cat", "Cat"]).fingerprint


def _ids_in_another_process(index, queue):
    queue.put((index.fingerprint, ids(index), [index.read(clip, "json") for clip in range(index.clips)]))


def test_unpickled_index_keeps_the_selection_after_the_id_list_is_deleted(folder, tmp_path):
    listed = ids_file(tmp_path / "ids", "clip0001")
    index = select(folder, [listed], ["Dog"])
    Path(listed).unlink()
    copy = pickle.loads(pickle.dumps(index))
    assert (copy.fingerprint, ids(copy)) == (index.fingerprint, clips(5, 9, 13))
    context = multiprocessing.get_context("forkserver")
    queue = context.Queue()
    process = context.Process(target=_ids_in_another_process, args=(index, queue))
    process.start()
    assert queue.get(timeout=60) == (
        index.fingerprint,
        clips(5, 9, 13),
        [index.read(clip, "json") for clip in range(3)],
    )
    process.join()


def _stream(folder: Path, batch_size: int, num_workers: int = 0, **source):
    sources = [StreamSourceConfig(shards=[str(folder)], **source)]
    config = StreamConfig(
        sources=sources,
        image_size_px=24,
        clip_duration_s=0.5,
        num_workers=num_workers,
        shuffle_window_clips=5,
        augment=AUGMENT,
    )
    return open_stream(config, 0, batch_size)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_epoch_of_a_stream_has_every_selected_clip_once(folder, tmp_path, num_workers):
    stream = _stream(
        folder, 2, num_workers, exclude=[ids_file(tmp_path / "ids", *clips(4, 5, 6, 7, 8))], labels=["Speech", "Cat"]
    )
    selected = clips(0, 1, 2, 9, 10, 12, 13, 14)
    assert stream.dataset.readers[0].index.clips == 8
    drawn = [stream.order.clip(position)[1] for position in range(3 * 8)]
    batches = [batch.id for _, batch in zip(range(12), stream.batches(), strict=False)]
    seen = [name for batch in batches for name in batch]
    assert stream.order.lanes == 1
    assert all(sorted(drawn[8 * n : 8 * n + 8]) == list(range(8)) for n in range(3))
    assert Counter(seen) == dict.fromkeys(selected, 3)


def test_each_epoch_of_every_lane_has_every_selected_clip_once(tmp_path):
    folder = label(write_data_set(tmp_path / "set", [12] * 8))
    stream = _stream(folder, 4, labels=["Dog", "Cat"])
    lanes, index = stream.order.lanes, stream.dataset.readers[0].index
    assert (lanes, index.clips) == (8, 48)
    for lane in range(lanes):
        epochs = [stream.order.clip(lane + lanes * draw)[1] for draw in range(18)]
        expected = [clip for clip in range(48) if index.shard_of(clip) == lane]
        assert all(sorted(epochs[6 * n : 6 * n + 6]) == expected for n in range(3))
    labels = {
        tuple(LABELS[int(name[4:]) % 4])
        for _, batch in zip(range(12), stream.batches(), strict=False)
        for name in batch.id
    }
    assert labels == {("Speech", "Dog"), ("Cat",)}


def test_streams_of_different_selections_have_different_fingerprints(folder, tmp_path):
    fingerprints = [
        json.dumps(_stream(folder, 2, **source).fingerprint)
        for source in ({}, {"labels": ["Cat"]}, {"exclude": [ids_file(tmp_path / "ids", "clip0001")]})
    ]
    assert len({*fingerprints}) == 3


def _table(clips: int) -> MemberTable:
    """A member table with ids as in AudioSet and one to three of 527 labels each."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8)
    names = [
        video.tobytes() + b"_%d" % start
        for video, start in zip(
            letters[rng.integers(64, size=(clips, 11))], rng.integers(60, size=clips) * 10000, strict=True
        )
    ]
    counts = rng.integers(1, 4, size=clips)
    columns = {
        "id_starts": np.concatenate([[0], np.cumsum([len(name) for name in names])]),
        "id_bytes": np.frombuffer(b"".join(names), np.uint8),
        "label_starts": np.concatenate([[0], np.cumsum(counts)]),
        "label_numbers": rng.integers(527, size=counts.sum()).astype(np.uint32),
    }
    return MemberTable(columns, [], [f"label{number}" for number in range(527)])


def test_selecting_from_200000_ids_takes_under_a_second_and_agrees_with_a_loop(tmp_path):
    table = _table(200_000)
    text, starts = table.columns["id_bytes"].tobytes(), table.columns["id_starts"]
    names = [text[start:end].decode() for start, end in itertools.pairwise(starts)]
    excluded = {name if number % 2 else name.rpartition("_")[0] for number, name in enumerate(names[::50])}
    exclude = (ids_file(tmp_path / "ids", *excluded),)
    started_s = time.process_time()
    rows = select_clips(table, exclude, ("label3", "label9"))
    assert time.process_time() - started_s < 1
    selected = {3, 9}
    numbers, labels_at = table.columns["label_numbers"].tolist(), table.columns["label_starts"].tolist()
    expected = [
        clip
        for clip, name in enumerate(names)
        if name not in excluded
        and name.rpartition("_")[0] not in excluded
        and selected & set(numbers[labels_at[clip] : labels_at[clip + 1]])
    ]
    assert (rows.dtype, rows.tolist()) == (np.int32, expected)
