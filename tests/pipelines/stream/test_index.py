"""Dataset index: members by clip number, the stored member table, and errors for folders that are not data sets."""

import json
import multiprocessing
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tiny_shards import clip_members, write_data_set

from configs.errors import UsageError
from pipelines.stream import index as index_module
from pipelines.stream.index import DatasetIndex, Shard


@pytest.fixture
def folder(tmp_path):
    return write_data_set(tmp_path / "set", [3, 2], frames=11, changes={4: {"flac": None, "mel.npy": b"\x93NUMPY"}})


def test_every_member_reads_as_it_was_written(folder):
    index = DatasetIndex.open(folder)
    assert (index.clips, index.shards) == (5, [Shard("train-000000", 0, 3), Shard("train-000001", 3, 2)])
    with tarfile.open(folder / "train-000001.tar") as tar:
        in_tar = {member.name: tar.extractfile(member).read() for member in tar}
    for clip in range(5):
        assert index.id(clip) == f"clip{clip:04d}"
        written = (
            clip_members(clip, frames=11)
            if clip < 4
            else {name: in_tar[f"clip0004.{name}"] for name in index.members(4)}
        )
        assert list(index.members(clip)) == list(written)
        assert {name: index.read(clip, name) for name in written} == written
    assert "flac" not in index.members(4)
    assert index.read(4, "mel.npy") == b"\x93NUMPY"
    with pytest.raises(KeyError):
        index.read(4, "flac")


def test_stored_table_is_reused(folder):
    first = DatasetIndex.open(folder)
    (folder / "train-000000.json").unlink()
    second = DatasetIndex.open(folder)
    assert second.fingerprint == first.fingerprint
    assert second.read(1, "flac") == first.read(1, "flac")
    assert not [path for path in (folder / ".index").iterdir() if path.name.startswith(".new")]


def test_damaged_table_is_rebuilt(folder):
    DatasetIndex.open(folder)
    table = next((folder / ".index").iterdir())
    (table / "member_blocks.npy").write_bytes(b"")
    assert DatasetIndex.open(folder).read(0, "json") == clip_members(0)["json"]
    assert np.load(table / "member_blocks.npy").size


def test_other_content_has_another_fingerprint_and_table(folder, tmp_path):
    other = write_data_set(tmp_path / "other", [3, 2], frames=10)
    before = DatasetIndex.open(folder).fingerprint
    assert DatasetIndex.open(other).fingerprint != before
    shutil.rmtree(folder / ".index")
    assert DatasetIndex.open(folder).fingerprint == before
    for file in other.glob("[!.]*"):
        shutil.copy(file, folder)
    assert len(DatasetIndex.open(folder).members(4)) == 12


def test_table_stays_in_memory_where_the_folder_is_not_writable(folder):
    (folder / ".index").write_text("in the way")
    index = pickle.loads(pickle.dumps(DatasetIndex.open(folder)))
    assert index.read(2, "0.jpg") == clip_members(2)["0.jpg"]


def test_open_file_descriptors_are_bounded_and_closed_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "MAX_OPEN_SHARDS", 2)
    before = set(Path("/proc/self/fd").iterdir())
    index = DatasetIndex.open(write_data_set(tmp_path / "set", [1] * 6))
    for clip in (0, 1, 0, 5, 4, 0, 3):
        assert index.read(clip, "json") == clip_members(clip)["json"]
        assert len(index._descriptors) <= 2
    del index
    assert set(Path("/proc/self/fd").iterdir()) <= before


def _read_all(index, queue):
    queue.put([index.read(clip, "flac") for clip in range(index.clips)])


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_other_processes_read_concurrently(folder, method):
    shutil.rmtree(folder)
    write_data_set(folder, [3, 2])
    index = DatasetIndex.open(folder)
    expected = [index.read(clip, "flac") for clip in range(5)]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    processes = [context.Process(target=_read_all, args=(index, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [expected, expected]
    assert [index.read(clip, "flac") for clip in range(5)] == expected
    for process in processes:
        process.join()


def _open(folder, barrier, queue):
    barrier.wait()
    queue.put(DatasetIndex.open(folder).read(3, "json"))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_that_build_the_table_concurrently_leave_one(folder):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(6), context.Queue()
    processes = [context.Process(target=_open, args=(folder, barrier, queue)) for _ in range(6)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [clip_members(3)["json"]] * 6
    for process in processes:
        process.join()
    assert len(list((folder / ".index").iterdir())) == 1


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _write(name, text):
    return lambda folder: (folder / name).write_text(text)


def _edit_shard(change):
    def edit(folder):
        file = folder / "train-000001.json"
        content = json.loads(file.read_text())
        change(content["members"])
        file.write_text(json.dumps(content))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, ["no such folder", "pipelines.build"]),
        (_remove("manifest.json"), ["no manifest.json", "unfinished", "pipelines.build"]),
        (_write("manifest.json", "{"), ["manifest.json is not a manifest"]),
        (_write("manifest.json", '{"shards": []}'), ["has no clips", "rejected.jsonl"]),
        (_remove("train-000001.tar"), ["train-000001.tar is missing", "pipelines.verify"]),
        (
            _write("train-000000.tar", "short"),
            ["train-000000.tar has 5 bytes, manifest.json states", "pipelines.verify"],
        ),
        (_remove("train-000001.json"), ["train-000001.json", "cannot be read"]),
        (_edit_shard(lambda members: members.pop()), ["train-000001.json does not match", "1 clips, 2 stated"]),
        (_edit_shard(lambda members: members[0]["files"].update({"0.jpg": [512, 10**9]})), ["does not match"]),
        (_edit_shard(lambda members: members[0]["files"].update({"0.jpg": [-512, 5]})), ["does not match"]),
        (
            _edit_shard(lambda members: members[0]["files"].update({"pkl": [512, 5]})),
            ["member .pkl", "allowed types are jpg, jpeg, png, flac, wav, opus"],
        ),
    ],
)
def test_folder_that_is_not_a_complete_data_set_is_rejected_in_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(UsageError) as error:
        DatasetIndex.open(folder)
    assert all(part in str(error.value) for part in [str(folder), *message])
    assert "\n" not in str(error.value)


def test_each_member_takes_ten_bytes_of_the_table(folder):
    index = DatasetIndex.open(folder)
    members = sum(len(index.members(clip)) for clip in range(5))
    stored = next((folder / ".index").iterdir())
    assert (
        sum(np.load(file).nbytes for file in stored.glob("member_[!s]*.npy"))
        + np.load(stored / "member_sizes.npy").nbytes
        == 10 * members
    )
