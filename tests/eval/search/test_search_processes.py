"""Real processes: killed builds, two writers, object stores, `--help`, an installation without the extra."""

import os
import signal
import subprocess
import sys
import time

import pytest
from paths import ROOT
from tiny_search import command, write_model, write_shards

from eval.search.lance_store import LanceStore

COMMAND = [sys.executable, "-m", "eval.search"]


def _start(*arguments, **environment):
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_help_is_quick_and_lists_the_settings():
    started_s = time.process_time()
    done = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "rerank" in done.stdout and "build=SHARDS" in done.stdout
    assert time.process_time() - started_s < 0.5


def test_without_lancedb_the_pip_command_is_named(tmp_path):
    (tmp_path / "lancedb.py").write_text("raise ImportError('not installed')\n")
    process = _start("index=I", "query=a.wav", PYTHONPATH=str(tmp_path))
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert error.strip().splitlines() == ["error: eval.search needs LanceDB: pip install 'denseav-trainer[search]'"]


@pytest.mark.slow
def test_a_killed_build_continues_and_has_every_clip_once(tmp_path):
    write_model(tmp_path / "model")
    write_shards(tmp_path / "shards", 1500)
    build = f"index={tmp_path / 'index'}", f"build={tmp_path / 'shards'}", f"checkpoint={tmp_path / 'model'}"
    process = _start(*build)
    deadline = time.monotonic() + 300
    versions = tmp_path / "index/vectors.lance/_versions"
    while not versions.is_dir() or len(list(versions.iterdir())) < 3:  # created, and two additions
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = len(LanceStore.open(str(tmp_path / "index")).describe().sources)
    assert 0 < kept < 1500
    process = _start(*build)
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert f"{1500 - kept} clips added, 1500 in all" in output
    store = LanceStore.open(str(tmp_path / "index"))
    assert len(store.describe().sources) == store.describe().pictures == 1500


@pytest.mark.slow
def test_a_second_writer_is_refused_and_the_first_one_finishes(tmp_path):
    write_model(tmp_path / "model")
    write_shards(tmp_path / "shards", 600)
    build = f"index={tmp_path / 'index'}", f"build={tmp_path / 'shards'}", f"checkpoint={tmp_path / 'model'}"
    first = _start(*build)
    while not (tmp_path / "index").is_dir():
        assert first.poll() is None
        time.sleep(0.01)
    assert command(*build) == 2
    output, error = first.communicate(timeout=300)
    assert first.returncode == 0, error
    assert "600 clips added" in output


@pytest.mark.slow
def test_an_index_in_an_object_store(tmp_path, monkeypatch, capsys):
    from tiny_s3 import serve_s3

    write_model(tmp_path / "model")
    write_shards(tmp_path / "shards", 6)
    with serve_s3("bucket") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        build = "index=s3://bucket/index", f"build={tmp_path / 'shards'}", f"checkpoint={tmp_path / 'model'}"
        assert command(*build) == 0
        assert command(*build) == 0
        assert "0 clips added, 6 in all" in capsys.readouterr().out


@pytest.mark.slow
def test_an_unreachable_object_store_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert command("index=s3://bucket/index", "delete=a") == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: index=s3://bucket/index: ")
