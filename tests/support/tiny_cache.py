"""Shard caches in one folder, for the tests of stream/cache.py and stream/cache_eviction.py."""

import json
import multiprocessing
import os

import pytest
from flaky_http import serve_flaky
from tiny_shards import write_data_set

from pipelines.storage import RemoteFolder
from pipelines.stream import remote_retry
from pipelines.stream.cache import ShardCache

SHARDS = 6
NAMES = [f"train-{number:06d}" for number in range(SHARDS)]


def shards_of_one_size(root):
    """A data set of six shards, three clips in each."""
    return write_data_set(root, [3] * SHARDS, audio="wav", changes={n: {"1.jpg": b"x"} for n in range(3 * SHARDS)})


def shard_bytes(folder):
    """Size of the largest shard."""
    return max(path.stat().st_size for path in folder.glob("*.tar"))


def cache_of(folder, address, root, max_bytes):
    """A shard cache below `root` for the data set in `folder`, which is served at `address`."""
    entries = json.loads((folder / "manifest.json").read_text())["shards"]
    return ShardCache(RemoteFolder(address), entries, root / "cache", entries[0]["sha256"], round(max_bytes))


def copies(root):
    """Names of the cached shards."""
    return sorted(path.stem for path in root.rglob("*.tar"))


def open_shard(cache, name):
    """Fetch a shard unless it is cached, and mark it as used."""
    os.close(cache.open(name))


def read_shard(cache, name):
    """All bytes of a shard."""
    descriptor = cache.open(name)
    try:
        return os.pread(descriptor, 1 << 30, 0)
    finally:
        os.close(descriptor)


def put_all_read(cache, names, queue):
    """Body of a process: put the bytes of these shards into the queue."""
    queue.put([read_shard(cache, name) for name in names])


def started(count, target, *arguments):
    """Start `count` processes of target(*arguments, queue); returns them and the queue."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.stream.cache"])
    queue = context.Queue()
    running = [context.Process(target=target, args=(*arguments, queue)) for _ in range(count)]
    for process in running:
        process.start()
    return running, queue


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of six shards."""
    return shards_of_one_size(tmp_path_factory.mktemp("shards") / "set")


@pytest.fixture(scope="module")
def server(folder):
    """A web server with the data set."""
    with serve_flaky(folder) as flaky:
        yield flaky


@pytest.fixture
def short_pauses(monkeypatch, server):
    """No faults of the server, and two tries without a long pause."""
    server.plan({})
    for name in ("LONG_RETRY", "SHORT_RETRY"):
        monkeypatch.setattr(remote_retry, name, remote_retry.Retries(2, 0.0, 0.01))


@pytest.fixture
def cache(server, folder, tmp_path):
    """Creates caches in one folder, each large enough for a number of shards of a data set."""
    return lambda shards=SHARDS, of=folder, address=server.address: cache_of(
        of, address, tmp_path, shards * shard_bytes(folder)
    )
