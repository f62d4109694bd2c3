"""Streaming from a flaky web server and from S3, in second processes: the same batches as from the local folder."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from flaky_http import serve_flaky
from paths import ROOT
from tiny_builds import wait
from tiny_s3 import serve_s3
from tiny_shards import write_data_set
from tiny_stream import assert_same_bits, stream_config

from configs.errors import CommandFailed, UsageError
from pipelines.storage import open_folder, remote_folder
from pipelines.stream import cache, remote_retry
from pipelines.stream.loader import open_stream

SHARDS = [f"train-{number:06d}.tar" for number in range(4)]
INDICES = [f"train-{number:06d}.json" for number in range(4)]

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_data_set(tmp_path_factory.mktemp("shards") / "set", [12, 10, 11, 10], changes={5: {"flac": b"x"}})


@pytest.fixture(scope="module")
def server(folder):
    with serve_flaky(folder) as flaky:
        yield flaky


@pytest.fixture(scope="module")
def s3(folder):
    with serve_s3("bucket") as environment, pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        remote = open_folder("s3://bucket/set")
        for file in folder.glob("[!.]*"):
            with remote.atomic_open(file.name) as target, file.open("rb") as source:
                shutil.copyfileobj(source, target)
        yield "s3://bucket/set"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    for name in ("LONG_RETRY", "SHORT_RETRY"):
        monkeypatch.setattr(remote_retry, name, remote_retry.Retries(4, 0.0, 0.01))


def _config(address, cache, **settings):
    return stream_config({"a": address}, cache_dir=str(cache), **settings)


def _batches(address, cache, count=6, **settings):
    batches = open_stream(_config(address, cache, **settings), 0, 8).batches()
    found = [batch.to("cpu") for _, batch in zip(range(count), batches, strict=False)]
    batches.close()
    return found


@pytest.fixture(scope="module")
def expected(folder):
    return _batches(folder, "unused")


def _assert_same_batches(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert_same_bits(batch, other)


# ---------------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("fault", ["good", "503", "drop", "short", "cut", "wrong", "page", "refuse", "slow"])
def test_batches_from_a_flaky_server_equal_those_of_the_local_folder(server, expected, tmp_path, fault):
    names, times = [*SHARDS, *INDICES, "manifest.json"], {"good": 0, "slow": 1}.get(fault, 3)
    server.plan({name: [fault] * times for name in names})
    before = server.answers()
    _assert_same_batches(_batches(server.address, tmp_path), expected)
    answers = server.answers() - before
    assert answers == {(name, fault): times for name in names if times} | {
        (name, "good"): 1 for name in names if fault != "slow"
    }


def test_workers_get_the_same_bits_from_a_flaky_server(server, expected, tmp_path):
    server.plan({name: ["503", "drop", "cut"] for name in SHARDS})
    before = server.answers()
    _assert_same_batches(_batches(server.address, tmp_path, num_workers=2), expected)
    answers = server.answers() - before
    assert all(answers[name, "good"] == 1 for name in [*SHARDS, *INDICES, "manifest.json"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_from_s3_equal_those_of_the_local_folder(s3, expected, tmp_path, num_workers):
    _assert_same_batches(_batches(s3, tmp_path, num_workers=num_workers), expected)


def test_second_run_requests_the_manifest_only(server, expected, tmp_path):
    server.plan({})
    _assert_same_batches(_batches(server.address, tmp_path), expected)
    before = server.answers()
    _assert_same_batches(_batches(server.address, tmp_path), expected)
    assert server.answers() - before == {("manifest.json", "good"): 1}


# ---------------------------------------------------------------------------------------------- one-line errors


def _one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("503", "train-000002.tar: ClientResponseError 503, message='Service Unavailable'"),
        ("404", "train-000002.tar is missing, but manifest.json lists it"),
        ("drop", "train-000002.tar: ClientPayloadError"),
        ("short", "train-000002.tar: ClientPayloadError"),
        ("refuse", "train-000002.tar: ClientOSError"),
        ("cut", "bytes, manifest.json states 30720"),
        ("long", "received 30724 bytes"),
        ("wrong", "its SHA-256 differs from manifest.json"),
    ],
)
def test_unavailable_shard_ends_the_run_in_one_line(server, tmp_path, fault, message, folder):
    server.plan({SHARDS[2]: [fault, "..."]})
    size_bytes = (folder / SHARDS[2]).stat().st_size
    with pytest.raises(CommandFailed) as error:
        _batches(server.address, tmp_path)
    line = _one_line(error)
    assert message.replace("30720", str(size_bytes)).replace("30724", str(size_bytes + 4)) in line
    assert re.match(r"4 tries in \d+ s: http://127.0.0.1:", line)
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob(SHARDS[2]))


RUN = """
import signal, sys
from configs.cli import run
from configs.schema import TrainConfig
from pipelines.stream import cache, remote_retry
from pipelines.stream.loader import open_stream

def main(config):
    remote_retry.LONG_RETRY = remote_retry.SHORT_RETRY = remote_retry.Retries(2, 0.0, 0.01)
    for batch in open_stream(config.stream, 0, 8).batches():
        print(len(batch), flush=True)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run(TrainConfig, "doc", main))
"""


def _start(address, cache, tmp_path, *more):
    script = tmp_path / "script.py"
    script.write_text(RUN)
    settings = [
        "image_size_px=24",
        "clip_duration_s=0.6",
        "shuffle_window_clips=8",
        "augment.audio_splice_max_s=0",
        f"cache_dir={cache}",
    ]
    arguments = [
        f"stream.sources=[{{name: a, shards: '{address}'}}]",
        *(f"stream.{setting}" for setting in settings),
        *more,
    ]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), *arguments],
        **{
            "env": os.environ | {"PYTHONPATH": str(ROOT)},
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "start_new_session": True,
        },
    )


def test_fatal_error_in_a_worker_ends_the_run_in_one_line_without_a_stack_trace(server, tmp_path):
    server.plan({SHARDS[2]: ["503", "..."]})
    run = _start(server.address, tmp_path / "cache", tmp_path, "stream.num_workers=2")
    _, message = run.communicate(timeout=150)
    assert run.returncode == 1
    assert re.fullmatch(
        r"error: 2 tries in \d+ s: http://127.0.0.1.*train-000002.tar: ClientResponseError 503, .*\n", message
    ), message


@pytest.mark.usefixtures("s3")
def test_unreachable_data_set_gives_a_one_line_error(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_folder, "HTTP_TIMEOUT_S", 0.5)
    server.plan({})
    for address, kind, message in (
        (f"{server.address}/nothing", UsageError, "nothing has no manifest.json"),
        ("s3://bucket/nothing", UsageError, "s3://bucket/nothing has no manifest.json"),
        ("s3://no-such-bucket/set", UsageError, "s3://no-such-bucket/set has no manifest.json"),
        ("http://127.0.0.1:9/set", CommandFailed, "s: http://127.0.0.1:9/set/manifest.json: ClientConnectorError"),
        ("foo://x", UsageError, "foo://x: Protocol not known"),
        ("gs://bucket/set", UsageError, "gs://bucket/set: Please install gcsfs"),
    ):
        with pytest.raises(kind) as error:
            _batches(address, tmp_path)
        assert message in _one_line(error)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError) as error:
        _batches(server.address, tmp_path / "file/cache")
    assert _one_line(error).startswith(
        f"stream.cache_dir={tmp_path}/file/cache, for copies of {server.address}, cannot be created: Not a directory"
    )
    for fault, message in (("page", "manifest.json: the answer is not JSON"), ("503", "Service Unavailable")):
        server.plan({"manifest.json": [fault, "..."]})
        with pytest.raises(CommandFailed, match=message) as error:
            _batches(server.address, tmp_path)
        _one_line(error)
    server.plan({"train-000001.json": ["404", "..."]})
    with pytest.raises(UsageError, match=r"train-000001.json, the index of a shard, cannot be read"):
        _batches(server.address, tmp_path)


def test_cache_too_small_for_the_current_windows_is_rejected_with_sizes(server, tmp_path):
    server.plan({})
    with pytest.raises(UsageError, match=r"stream.cache_gb=2e-05 cannot hold two shards of http.*, the largest has"):
        _batches(server.address, tmp_path, cache_gb=2e-5)
    with pytest.raises(
        UsageError,
        match=r"stream.cache_gb=0.00025 is too small: the shards that are read at one time have 0.000\d+ GB; set it",
    ):
        _batches(server.address, tmp_path, cache_gb=2.5e-4)


# ---------------------------------------------------------------------------------------------- timeouts


def test_stalled_or_slow_connection_times_out(server, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_folder, "HTTP_TIMEOUT_S", 0.3)
    monkeypatch.setattr(cache, "_GRACE_S", 0.0)
    server.plan({SHARDS[0]: ["hang"], SHARDS[1]: ["drip"], "train-000001.json": ["hang"]})
    _assert_same_batches(_batches(server.address, tmp_path), expected)
    monkeypatch.setattr(remote_retry, "LONG_RETRY", remote_retry.Retries(2, 0.0, 0.01))
    server.plan({SHARDS[2]: ["hang", "..."]})
    with pytest.raises(CommandFailed, match=r"train-000002.tar: .*[Tt]imeout"):
        _batches(server.address, tmp_path / "other")


# ---------------------------------------------------------------------------------------------- prefetch


def test_shards_are_prefetched_before_they_are_read(server, tmp_path):
    server.plan({})
    batches = open_stream(_config(server.address, tmp_path, shuffle_window_clips=2, lanes=1), 0, 2).batches()
    next(batches)
    wait(lambda: len(list(tmp_path.rglob("*.tar"))) >= 2, seconds=60)
    batches.close()


def test_failed_prefetch_does_not_affect_the_run(server, expected, tmp_path):
    server.plan({name: ["503"] * 3 for name in SHARDS})
    before = server.answers()
    found = _batches(server.address, tmp_path)
    _assert_same_batches(found, expected)
    assert sum((server.answers() - before)[name, "503"] for name in SHARDS) == 12


@pytest.mark.parametrize(
    ("num_workers", "kill"),
    [(0, signal.SIGINT), *(pytest.param(1, kill, marks=pytest.mark.slow) for kill in (signal.SIGINT, signal.SIGKILL))],
)
def test_downloading_threads_do_not_keep_the_process_alive(server, folder, tmp_path, num_workers, kill):
    order = open_stream(_config(folder, tmp_path, lanes=1), 0, 8).order
    late = [SHARDS[shard] for _, shard in order.shards_ahead(0, 3, 0, 1, 0)][2:]
    server.plan(
        {name: ["hang", "..."] for name in late if name != SHARDS[0]}
    )  # the first one is opened to check its sample rate
    run = _start(server.address, tmp_path / "cache", tmp_path, "stream.lanes=1", f"stream.num_workers={num_workers}")
    assert run.stdout.readline() == "8\n"
    wait(lambda: list(tmp_path.rglob("*.tmp")), seconds=60)
    time.sleep(1.5)  # until all wait for that shard
    os.killpg(run.pid, kill) if kill == signal.SIGINT else run.kill()
    started_s = time.monotonic()
    _, message = run.communicate(timeout=150)
    assert time.monotonic() - started_s < 20  # torch waits 5 s for each worker that fetches
    assert (run.returncode, message) == (
        (130, "interrupted: run the same command again\n") if kill == signal.SIGINT else (-9, "")
    )
