"""A stream from far away: a web server with troubles and an S3, both second processes; the batches are those of the local folder, or one line says why not."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from flaky_http import serve_flaky
from paths import ROOT
from tiny_builds import wait
from tiny_s3 import serve_s3
from tiny_shards import write_data_set

from configs.errors import CommandFailed, UsageError
from configs.schema import AugmentConfig, StreamConfig, StreamSourceConfig
from pipelines.storage import open_folder, remote_folder
from pipelines.stream import cache, retry
from pipelines.stream.loader import open_stream

AUGMENT = AugmentConfig(
    audio_splice_min_s=0.1, audio_splice_max_s=0.3, audio_splice_fade_min_s=0.05, time_mask_min_s=0.2
)
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
        monkeypatch.setattr(retry, name, retry.Retries(4, 0.0, 0.01))


def _config(address, cache, **settings):
    defaults = {
        "image_size_px": 24,
        "clip_duration_s": 0.6,
        "num_workers": 0,
        "shuffle_window_clips": 8,
        "max_error_rate": 1.0,
        "augment": AUGMENT,
    }
    return StreamConfig(
        sources=[StreamSourceConfig(name="a", shards=str(address))], cache_dir=str(cache), **(defaults | settings)
    )


def _batches(address, cache, count=6, **settings):
    batches = open_stream(_config(address, cache, **settings), 0, 8).batches()
    found = [batch for _, batch in zip(range(count), batches, strict=False)]
    batches.close()
    return found


@pytest.fixture(scope="module")
def expected(folder):
    return _batches(folder, "unused")


def _assert_same_bits(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for name, value in vars(batch).items():
            assert (
                torch.equal(value, getattr(other, name))
                if isinstance(value, torch.Tensor)
                else value == getattr(other, name)
            ), name


# ---------------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("trouble", ["good", "503", "drop", "short", "cut", "wrong", "page", "refuse", "slow"])
def test_batches_from_a_flaky_server_are_those_of_the_local_folder(server, expected, tmp_path, trouble):
    names, times = [*SHARDS, *INDICES, "manifest.json"], {"good": 0, "slow": 1}.get(trouble, 3)
    server.plan({name: [trouble] * times for name in names})
    before = server.answers()
    _assert_same_bits(_batches(server.address, tmp_path), expected)
    answers = server.answers() - before
    assert answers == {(name, trouble): times for name in names if times} | {
        (name, "good"): 1 for name in names if trouble != "slow"
    }


def test_workers_get_the_same_bits_from_a_flaky_server(server, expected, tmp_path):
    server.plan({name: ["503", "drop", "cut"] for name in SHARDS})
    before = server.answers()
    _assert_same_bits(_batches(server.address, tmp_path, num_workers=2), expected)
    answers = server.answers() - before
    assert all(answers[name, "good"] == 1 for name in [*SHARDS, *INDICES, "manifest.json"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_from_s3_are_those_of_the_local_folder(s3, expected, tmp_path, num_workers):
    _assert_same_bits(_batches(s3, tmp_path, num_workers=num_workers), expected)


def test_a_second_run_asks_for_the_manifest_alone(server, expected, tmp_path):
    server.plan({})
    _assert_same_bits(_batches(server.address, tmp_path), expected)
    before = server.answers()
    _assert_same_bits(_batches(server.address, tmp_path), expected)
    assert server.answers() - before == {("manifest.json", "good"): 1}


# ---------------------------------------------------------------------------------------------- one line


def _one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ("503", "train-000002.tar: ClientResponseError 503, message='Service Unavailable'"),
        ("404", "train-000002.tar is missing, manifest.json lists it"),
        ("drop", "train-000002.tar: ClientPayloadError"),
        ("short", "train-000002.tar: ClientPayloadError"),
        ("refuse", "train-000002.tar: ClientOSError"),
        ("cut", "bytes came, 30720 stated in manifest.json"),
        ("long", "30724 bytes came"),
        ("wrong", "its bytes have another SHA-256 than stated in manifest.json"),
    ],
)
def test_a_shard_that_never_comes_ends_the_run_in_one_line(server, tmp_path, trouble, told, folder):
    server.plan({SHARDS[2]: [trouble, "..."]})
    size_bytes = (folder / SHARDS[2]).stat().st_size
    with pytest.raises(CommandFailed) as error:
        _batches(server.address, tmp_path)
    line = _one_line(error)
    assert told.replace("30720", str(size_bytes)).replace("30724", str(size_bytes + 4)) in line
    assert line.startswith("4 tries in 0 s: http://127.0.0.1:")
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob(SHARDS[2]))


RUN = """
import signal, sys
from configs.cli import run
from configs.schema import TrainConfig
from pipelines.stream import cache, retry
from pipelines.stream.loader import open_stream

def main(config):
    retry.LONG_RETRY = retry.SHORT_RETRY = retry.Retries(2, 0.0, 0.01)
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
    words = [
        f"stream.sources=[{{name: a, shards: '{address}'}}]",
        *(f"stream.{setting}" for setting in settings),
        *more,
    ]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), *words],
        **{
            "env": os.environ | {"PYTHONPATH": str(ROOT)},
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "start_new_session": True,
        },
    )


def test_a_worker_that_cannot_go_on_ends_the_run_in_one_line_and_no_stack_trace(server, tmp_path):
    server.plan({SHARDS[2]: ["503", "..."]})
    run = _start(server.address, tmp_path / "cache", tmp_path, "stream.num_workers=2")
    _, told = run.communicate(timeout=60)
    assert run.returncode == 1
    assert re.fullmatch(
        r"error: 2 tries in \d+ s: http://127.0.0.1.*train-000002.tar: ClientResponseError 503, .*\n", told
    ), told


@pytest.mark.usefixtures("s3")
def test_what_cannot_be_opened_is_one_line(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_folder, "HTTP_TIMEOUT_S", 0.5)
    server.plan({})
    for address, kind, told in (
        (f"{server.address}/nothing", UsageError, "nothing has no manifest.json"),
        ("s3://bucket/nothing", UsageError, "s3://bucket/nothing has no manifest.json"),
        ("s3://no-such-bucket/set", UsageError, "s3://no-such-bucket/set has no manifest.json"),
        (
            "http://127.0.0.1:9/set",
            CommandFailed,
            "4 tries in 0 s: http://127.0.0.1:9/set/manifest.json: ClientConnectorError",
        ),
        ("foo://x", UsageError, "foo://x: Protocol not known"),
        ("gs://bucket/set", UsageError, "gs://bucket/set: Please install gcsfs"),
    ):
        with pytest.raises(kind) as error:
            _batches(address, tmp_path)
        assert told in _one_line(error)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError) as error:
        _batches(server.address, tmp_path / "file/cache")
    assert _one_line(error).startswith(
        f"stream.cache_dir={tmp_path}/file/cache, for copies of {server.address}, cannot be made: Not a directory"
    )
    for trouble, told in (("page", "manifest.json: what came is no JSON"), ("503", "Service Unavailable")):
        server.plan({"manifest.json": [trouble, "..."]})
        with pytest.raises(CommandFailed, match=told) as error:
            _batches(server.address, tmp_path)
        _one_line(error)
    server.plan({"train-000001.json": ["404", "..."]})
    with pytest.raises(UsageError, match=r"train-000001.json, the index of a shard, cannot be read"):
        _batches(server.address, tmp_path)


def test_a_cache_that_cannot_hold_what_is_read_at_one_time_is_refused_with_figures(server, tmp_path):
    server.plan({})
    with pytest.raises(UsageError, match=r"stream.cache_gb=2e-05 cannot hold two shards of http.*, the largest has"):
        _batches(server.address, tmp_path, cache_gb=2e-5)
    with pytest.raises(
        UsageError,
        match=r"stream.cache_gb=0.00025 is too little: the shards that are read at one time have 0.000\d+ GB; give twice that",
    ):
        _batches(server.address, tmp_path, cache_gb=2.5e-4)


# ---------------------------------------------------------------------------------------------- silence


def test_a_connection_that_goes_silent_or_drips_is_given_up(server, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_folder, "HTTP_TIMEOUT_S", 0.3)
    monkeypatch.setattr(cache, "_GRACE_S", 0.0)
    server.plan({SHARDS[0]: ["hang"], SHARDS[1]: ["drip"], "train-000001.json": ["hang"]})
    _assert_same_bits(_batches(server.address, tmp_path), expected)
    monkeypatch.setattr(retry, "LONG_RETRY", retry.Retries(2, 0.0, 0.01))
    server.plan({SHARDS[2]: ["hang", "..."]})
    with pytest.raises(CommandFailed, match=r"train-000002.tar: .*[Tt]imeout"):
        _batches(server.address, tmp_path / "other")


# ---------------------------------------------------------------------------------------------- ahead of need


def test_shards_are_there_before_they_are_needed(server, tmp_path):
    server.plan({})
    batches = open_stream(_config(server.address, tmp_path, shuffle_window_clips=2, lanes=1), 0, 2).batches()
    next(batches)
    wait(lambda: len(list(tmp_path.rglob("*.tar"))) >= 2)
    batches.close()


def test_a_prefetch_that_fails_is_nothing_to_the_run(server, expected, tmp_path):
    server.plan({name: ["503"] * 3 for name in SHARDS})
    before = server.answers()
    found = _batches(server.address, tmp_path)
    _assert_same_bits(found, expected)
    assert sum((server.answers() - before)[name, "503"] for name in SHARDS) == 12


@pytest.mark.parametrize(
    ("num_workers", "kill"),
    [(0, signal.SIGINT), *(pytest.param(1, kill, marks=pytest.mark.slow) for kill in (signal.SIGINT, signal.SIGKILL))],
)
def test_no_thread_that_fetches_keeps_the_process_alive(server, folder, tmp_path, num_workers, kill):
    order = open_stream(_config(folder, tmp_path, lanes=1), 0, 8).order
    late = [SHARDS[shard] for _, shard in order.shards_ahead(0, 3, 0, 1, 0)][2:]
    server.plan(
        {name: ["hang", "..."] for name in late if name != SHARDS[0]}
    )  # the first one is opened to see its sample rate
    run = _start(server.address, tmp_path / "cache", tmp_path, "stream.lanes=1", f"stream.num_workers={num_workers}")
    assert run.stdout.readline() == "8\n"
    wait(lambda: list(tmp_path.rglob("*.tmp")))
    time.sleep(1.5)  # until all wait for that shard
    os.killpg(run.pid, kill) if kill == signal.SIGINT else run.kill()
    began_s = time.monotonic()
    _, told = run.communicate(timeout=60)
    assert time.monotonic() - began_s < 20  # torch waits 5 s for each worker that fetches
    assert (run.returncode, told) == (
        (130, "interrupted: run the same command again\n") if kill == signal.SIGINT else (-9, "")
    )
