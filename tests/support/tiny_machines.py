"""Machines of a multi-node training, all of them this one: their environment, and the processes that run on them."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import yaml
from paths import ROOT


@pytest.fixture
def machine(tmp_path):
    """Environment of a machine without GPUs: the same launch on the CPU, with a free port."""
    config = yaml.safe_load((ROOT / "configs/accelerate/multi_node.yaml").read_text()) | {
        "use_cpu": True,
        "mixed_precision": "no",
    }
    (tmp_path / "cpu.yaml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return os.environ | {
        "ACCELERATE_CONFIG": str(tmp_path / "cpu.yaml"),
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "PORT": str(port),
    }


def arguments(settings, out, *more):
    """Settings of a run that saves at its end or when it is stopped."""
    given = {
        text.partition("=")[0]: text
        for text in (*settings, f"out={out}", "checkpoint.every_steps=1000", "checkpoint.keep_last=3", *more)
    }
    return list(given.values())


def end(process):
    """Kill a process and all that it started, if a test has left it running."""
    found = [process.pid] if process.poll() is None else []
    for pid in found:
        found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    process.wait()


def wait(condition, what, seconds=200.0):
    """Wait until a condition is true and return its value; `what` makes the message of a timeout."""
    limit_s = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit_s, what()
        time.sleep(0.05)
    return found


def steps_logged(out):
    """The number of steps in the history of a run."""
    path = out / "a/history.jsonl"
    return path.read_text().count("\n") if path.exists() else 0
