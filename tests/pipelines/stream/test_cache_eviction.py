"""Eviction from the shard cache: least recently used first, within the size limit, pinned shards last."""

import contextlib
import os
import signal
import time

import numpy as np
import pytest
from flaky_http import serve_flaky
from tiny_builds import wait
from tiny_cache import (
    NAMES,
    SHARDS,
    copies,
    open_shard,
    put_all_read,
    read_shard,
    shard_bytes,
    started,
)
from tiny_shards import write_data_set

from pipelines.stream.cache_eviction import PinnedShards

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.usefixtures("short_pauses"),
]


def test_least_recently_used_shard_is_evicted_and_an_open_one_stays_readable(cache, folder, tmp_path):
    mine = cache(shards=3)
    open_shard(mine, NAMES[1])
    descriptor = mine.open(NAMES[0])
    open_shard(mine, NAMES[2])
    open_shard(mine, NAMES[1])
    open_shard(mine, NAMES[3])
    assert copies(tmp_path) == [NAMES[1], NAMES[2], NAMES[3]]
    assert os.pread(descriptor, 1 << 30, 0) == (folder / f"{NAMES[0]}.tar").read_bytes()
    os.close(descriptor)
    open_shard(mine, NAMES[0])
    assert copies(tmp_path) == [NAMES[0], NAMES[1], NAMES[3]]


def test_data_sets_share_the_cache_size(cache, folder, tmp_path):
    other = write_data_set(
        tmp_path / "other", [3] * 2, prefix="other", audio="wav", changes={n: {"1.jpg": b"y"} for n in range(6)}
    )
    with serve_flaky(other) as own:
        mine, theirs = cache(shards=3), cache(shards=3, of=other, address=own.address)
        for name in NAMES[:3]:
            open_shard(mine, name)
        for name in NAMES[:2]:
            assert read_shard(theirs, name) == (other / f"{name}.tar").read_bytes()
        assert [
            path.parent == theirs.data_set_folder
            for path in sorted((tmp_path / "cache").rglob("*.tar"), key=lambda p: p.stat().st_mtime_ns)
        ] == [False, True, True]
        assert read_shard(mine, NAMES[0]) == (folder / f"{NAMES[0]}.tar").read_bytes()


def _read_at_random(cache, queue):
    rng = np.random.default_rng(os.getpid())
    queue.put([len(read_shard(cache, NAMES[number])) for number in rng.integers(SHARDS, size=60)])


def test_concurrent_processes_never_exceed_the_cache_size(cache, folder, tmp_path):
    """Four of six shards fit, and three processes read: a download reserves space for the whole shard."""
    size_bytes, most = shard_bytes(folder), 0
    processes, queue = started(3, _read_at_random, cache(shards=4))
    while any(process.is_alive() for process in processes):
        held = {}
        for path in [*tmp_path.rglob("*.tmp"), *tmp_path.rglob("*.tar")]:  # in this order no shard is missed
            with contextlib.suppress(FileNotFoundError):
                held[path.name.removeprefix(".").partition(".")[0]] = path.stat().st_size
        most = max(most, sum(held.values()))
        time.sleep(0.001)
        if queue.qsize() == 3:
            break
    assert all(queue.get(timeout=60) == [size_bytes] * 60 for _ in processes)
    for process in processes:
        process.join()
    assert 2 * size_bytes < most <= 4 * size_bytes
    assert len(copies(tmp_path)) <= 4


# ------------------------------------------------------------------------------------ pinned shards and prefetch


def test_prefetch_does_not_evict_pinned_shards(cache, tmp_path):
    mine = cache(shards=3)
    for name in NAMES[:3]:
        open_shard(mine, name)
    pinned = PinnedShards(mine.folder)
    pinned.pin(mine.path(name) for name in NAMES[:3])
    assert not mine.prefetch(NAMES[3])
    assert copies(tmp_path) == NAMES[:3] and not list(tmp_path.rglob("*.tmp"))
    pinned.pin(mine.path(name) for name in (*NAMES[:2], NAMES[3]))
    assert mine.prefetch(NAMES[3])
    assert copies(tmp_path) == [NAMES[0], NAMES[1], NAMES[3]]
    open_shard(mine, NAMES[4])  # opening a shard evicts pinned ones too
    assert copies(tmp_path) == [NAMES[1], NAMES[3], NAMES[4]]
    assert mine.prefetch(NAMES[5])
    assert copies(tmp_path) == [NAMES[1], NAMES[3], NAMES[5]]
    pinned.close()
    assert mine.prefetch(NAMES[0])
    assert copies(tmp_path) == [NAMES[0], NAMES[3], NAMES[5]]


def _pin(cache, names, queue):
    pinned = PinnedShards(cache.folder)
    pinned.pin(cache.path(name) for name in names)
    queue.put(None)
    time.sleep(60)


def test_shards_pinned_by_another_process_are_kept_until_it_is_killed(cache, tmp_path):
    mine = cache(shards=2)
    for name in NAMES[:2]:
        open_shard(mine, name)
    (process,), queue = started(1, _pin, mine, NAMES[:2])
    queue.get(timeout=60)
    assert not mine.prefetch(NAMES[2])
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert mine.prefetch(NAMES[2])
    assert not list(tmp_path.rglob(".needed-*"))


def test_prefetch_skips_a_shard_that_another_process_is_fetching(cache, server, tmp_path):
    server.plan({f"{NAMES[0]}.tar": ["hang"]})
    mine = cache()
    (process,), _ = started(1, put_all_read, mine, NAMES[:1])
    wait(lambda: any(path.stat().st_size for path in tmp_path.rglob("*.tmp")), seconds=60)
    before = server.answers()
    assert mine.prefetch(NAMES[0])
    assert server.answers() == before and not copies(tmp_path)
    process.kill()
    process.join()
