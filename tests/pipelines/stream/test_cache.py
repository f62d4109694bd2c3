"""Shard cache: each shard is fetched once and verified, by processes that share a bounded folder and may be killed."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
from flaky_http import serve_flaky
from tiny_builds import wait
from tiny_cache import (
    NAMES,
    copies,
    open_shard,
    put_all_read,
    read_shard,
    started,
)
from tiny_disk import tiny_disk

from configs.errors import CommandFailed, UsageError
from pipelines.stream import remote_retry
from pipelines.stream.index import DatasetIndex

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.usefixtures("short_pauses"),
]


# ---------------------------------------------------------------------------------------------- downloads


def test_concurrent_processes_fetch_each_shard_once(cache, server, folder, tmp_path):
    server.plan({}, delay_s=0.3)
    before = server.answers()
    processes, queue = started(4, put_all_read, cache(), NAMES[:3])
    expected = [(folder / f"{name}.tar").read_bytes() for name in NAMES[:3]]
    assert all(queue.get(timeout=60) == expected for _ in processes)
    for process in processes:
        process.join()
    assert server.answers() - before == {(f"{name}.tar", "good"): 1 for name in NAMES[:3]}
    assert not list(tmp_path.rglob("*.tmp"))


def test_concurrent_opens_of_a_data_set_fetch_its_indices_once(server, tmp_path):
    before = server.answers()
    settings, found = {"cache_dir": str(tmp_path / "cache"), "cache_bytes": 10**9}, []
    threads = [
        threading.Thread(target=lambda: found.append(DatasetIndex.open(server.address, **settings).id(4)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["clip0004"] * 3
    assert all((server.answers() - before)[f"{name}.json", "good"] == 1 for name in NAMES)


def test_killed_download_leaves_nothing_that_blocks_later_ones(cache, server, folder, tmp_path):
    server.plan({f"{NAMES[0]}.tar": ["hang"], f"{NAMES[1]}.tar": ["hang"]})
    mine = cache()
    for name in NAMES[:2]:
        (process,), _ = started(1, put_all_read, mine, [name])
        wait(lambda: any(path.stat().st_size for path in tmp_path.rglob("*.tmp")), seconds=60)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert len(list(tmp_path.rglob("*.tmp"))) == 1
        later = {NAMES[0]: NAMES[0], NAMES[1]: NAMES[2]}[name]  # the same shard; another one
        assert read_shard(mine, later) == (folder / f"{later}.tar").read_bytes()
        assert not list(tmp_path.rglob("*.tmp"))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        ".lock",
        f"{NAMES[0]}.tar",
        f"{NAMES[2]}.tar",
    }


def test_waiter_takes_over_a_killed_download(cache, server, folder, tmp_path):
    server.plan({f"{NAMES[0]}.tar": ["hang"]})
    mine, found = cache(), []
    (process,), _ = started(1, put_all_read, mine, NAMES[:1])
    wait(lambda: any(path.stat().st_size for path in tmp_path.rglob("*.tmp")), seconds=60)
    waiting = threading.Thread(target=lambda: found.append(read_shard(mine, NAMES[0])))
    waiting.start()
    time.sleep(0.3)
    assert waiting.is_alive() and server.requests(f"{NAMES[0]}.tar")
    os.kill(process.pid, signal.SIGKILL)
    waiting.join(20)
    process.join()
    assert found == [(folder / f"{NAMES[0]}.tar").read_bytes()]


def test_leftover_of_an_unfinished_member_index_is_removed(server, tmp_path):
    settings = {"cache_dir": str(tmp_path / "cache"), "cache_bytes": 10**9}
    first = DatasetIndex.open(server.address, **settings)
    (table,) = first.cache.data_set_folder.glob("2-*")
    table.rename(table.with_name(".new-abc"))
    assert DatasetIndex.open(server.address, **settings).id(4) == "clip0004"
    assert {path.name for path in first.cache.data_set_folder.iterdir()} == {".lock", table.name}


@pytest.mark.parametrize("size_bytes", [0, 1000])
def test_truncated_copy_is_fetched_again(cache, folder, size_bytes):
    mine = cache()
    open_shard(mine, NAMES[0])
    os.truncate(mine.path(NAMES[0]), size_bytes)
    assert read_shard(mine, NAMES[0]) == (folder / f"{NAMES[0]}.tar").read_bytes()


def test_cache_does_not_detect_a_changed_copy_of_the_same_size(cache, server):
    """As documented: only the size of a copy is checked; the decoder meets the damage."""
    mine = cache()
    data = read_shard(mine, NAMES[0])
    mine.path(NAMES[0]).write_bytes(bytes(len(data)))
    before = server.answers()
    assert read_shard(mine, NAMES[0]) == bytes(len(data))
    assert server.answers() == before


def test_index_is_unpickled_without_access_to_the_remote_store(folder, tmp_path):
    with serve_flaky(folder) as own:
        index = DatasetIndex.open(own.address, lambda _: np.array([1, 4, 7], np.int32), str(tmp_path / "cache"), 10**9)
        expected = index.read(0, "wav")
    again = pickle.loads(pickle.dumps(index))
    assert (again.fingerprint, again.shards, again.id(2)) == (index.fingerprint, index.shards, "clip0007")
    assert again.read(0, "wav") == expected
    with pytest.raises(CommandFailed, match=r"2 tries in \d+ s: .*train-000001.tar: Client"):
        again.read(1, "wav")


def test_manifest_with_a_path_as_shard_name_is_rejected(folder, tmp_path):
    copy = tmp_path / "set"
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["shards"][0]["name"] = "../../elsewhere"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with serve_flaky(copy) as own, pytest.raises(UsageError, match=r"invalid name of a shard: '../../elsewhere'"):
        DatasetIndex.open(own.address, cache_dir=str(tmp_path / "cache"), cache_bytes=10**9)


def test_cache_too_small_for_two_shards_or_not_creatable_is_rejected(cache, tmp_path):
    with pytest.raises(UsageError, match=r"cannot hold two shards of http://127.*, the largest has"):
        cache(shards=1.5)
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(
        UsageError,
        match=r"stream.cache_dir=.*/cache, for copies of http.*, cannot be created: .*; choose another folder",
    ):
        cache()


def test_full_disk_gives_a_one_line_error(server, tmp_path):
    with tiny_disk(tmp_path, "200k") as disk:
        index = DatasetIndex.open(server.address, cache_dir=str(disk), cache_bytes=10**9)
        with pytest.raises(CommandFailed) as error:
            [index.read(clip, "wav") for clip in range(index.clips)]
        assert str(error.value).startswith(f"stream.cache_dir={disk}, for copies of http://127.0.0.1:")
        assert str(error.value).endswith(
            "No space left on device; free disk space, reduce stream.cache_gb or choose another folder, "
            "then run the same command again"
        )
        assert copies(tmp_path) and not list(disk.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=20M", disk], check=True)
        assert all(index.read(clip, "wav") for clip in range(index.clips))


# ---------------------------------------------------------------------------------------------- retries


class _Clock:
    """A clock that only `sleep` advances."""

    def __init__(self):
        self.now_s = 0.0

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


def test_retries_continue_until_both_minimum_tries_and_minimum_time(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr(remote_retry, "time", clock)

    def attempts(retries, started_s=None):
        tried = []

        def attempt():
            tried.append(None)
            raise CommandFailed("no")

        with pytest.raises(CommandFailed, match=r"^\d+ tries in \d+ s: no$"):
            remote_retry.retried(attempt, retries, started_s)
        return len(tried)

    assert attempts(remote_retry.Retries(3, 0.0, 0.001)) == 3
    assert attempts(remote_retry.Retries(1, 0.2, 0.05)) == 4  # pauses of about 0.05, 0.1 and 0.2 s
    assert attempts(remote_retry.Retries(1, 100.0, 0.05), clock.monotonic() - 100) == 1
