"""Batches between processes: whole in any /dev/shm, and one line when a worker is killed or cannot start."""

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from paths import ROOT
from shared_memory import with_small_shm
from tiny_shards import write_data_set

from configs.errors import CommandFailed
from pipelines.stream.batch import HostBatch
from pipelines.stream.shared_batch import share_batch


def test_a_batch_is_the_same_after_its_way_for_every_type_and_shape():
    fields = {
        "frames": {"images": torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4), "tiles": torch.empty((0, 3, 4))},
        "other": {
            "bool": torch.tensor([True, False, True]),
            "half": torch.randn(3, 5).half(),
            "strided": torch.arange(6).reshape(2, 3).T,
            "scalar": torch.tensor(0.5, dtype=torch.float64),
        },
    }
    batch = HostBatch(fields, torch.tensor([0, 1]), ["a", "é"], [7, 8], Counter(bad_audio=1), 0.5, 0.25)
    fetched = share_batch(batch).fetch()
    for modality, tensors in fields.items():
        for name, tensor in tensors.items():
            found = fetched.fields[modality][name]
            assert torch.equal(found, tensor) and found.dtype == tensor.dtype, name
    assert torch.equal(fetched.source, batch.source)
    names = ("id", "position", "rejected", "worker_s", "worker_cpu_s")
    assert [getattr(fetched, name) for name in names] == [getattr(batch, name) for name in names]
    fetched.fields["frames"]["images"] += 1  # memory of the receiver


def test_an_error_in_place_of_a_batch_is_passed_on():
    error = CommandFailed("no store")
    assert share_batch(error) is error


STREAM = """
import os, sys
from configs.cli import run
from configs.schema import NoSettings, StreamConfig, StreamSourceConfig
from pipelines.stream.loader import open_stream

def body(_):
    # 48 MB a batch
    config = StreamConfig(sources=[StreamSourceConfig(name="a", shards=[sys.argv[1]])], num_workers=2, max_error_rate=1)
    for step, batch in enumerate(open_stream(config, 0, 100).batches()):
        print(step, len(batch), sum(map(len, batch.fields)), flush=True)
        if sys.argv[2] == "fill" and step == 1:
            with open("/dev/shm/other", "wb") as file:
                try:
                    while True:
                        file.write(bytes(1 << 20))
                except OSError:
                    print("full", flush=True)
        if sys.argv[2] in ("fill", "short") and step == 6:
            return
        if sys.argv[2] == "kill":
            sys.stdin.readline()

if __name__ == "__main__":
    sys.exit(run(NoSettings, "", body, argv=[]))
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Start a stream of large batches: command("short"), "fill" or "kill"."""
    root = tmp_path_factory.mktemp("stream")
    folder = write_data_set(root / "a", [120, 120])
    (root / "stream.py").write_text(STREAM)
    return lambda action: [sys.executable, "-W", "ignore", root / "stream.py", folder, action]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_batches_larger_than_dev_shm_arrive_also_when_another_program_fills_it(command):
    done = subprocess.run(with_small_shm(command("fill")), capture_output=True, text=True, env=ENVIRONMENT, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2] == "full" and done.stdout.splitlines()[-1].startswith("6 100 ")


def test_a_dev_shm_without_space_for_semaphores_is_one_line(command):
    line = with_small_shm(command("short"), size="4k", before="echo x > /dev/shm/x")
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, timeout=280)
    assert done.returncode == 1
    assert done.stderr.startswith("error: loader workers do not start: No space left on device; their semaphores")
    assert done.stderr.count("\n") == 1


def _workers(pid):
    """The worker processes of a run: children of its fork server."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    return [grandchild for child in children.get(pid, []) for grandchild in children.get(child, [])]


@pytest.mark.parametrize(
    ("kill", "cause"),
    [
        (
            signal.SIGKILL,
            "was killed by SIGKILL; probably the machine or its container is out of memory: use ",
        ),
        pytest.param(
            signal.SIGBUS,
            "was killed by SIGBUS; probably a shard or its index was cut off while it was read",
            marks=pytest.mark.slow,
        ),
        pytest.param(signal.SIGABRT, "was killed by SIGABRT\n", marks=pytest.mark.slow),
    ],
)
def test_a_killed_worker_ends_the_run_in_one_line(command, kill, cause):
    run = subprocess.Popen(
        command("kill"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert run.stdout.readline().startswith("0 100 ")
    workers = _workers(run.pid)
    assert len(workers) == 2
    os.kill(workers[0], kill)
    _, errors = run.communicate("\n" * 100, timeout=280)
    assert run.returncode == 1
    # torch's handler of SIGBUS adds a line of its own.
    lines = [line for line in errors.splitlines() if not line.startswith("ERROR: Unexpected bus error")]
    assert len(lines) == 1 and f"{lines[0]}\n".lstrip("\0").startswith(f"error: a loader worker {cause}"), errors
