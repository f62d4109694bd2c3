"""Several processes and machines: the same numbers as one process, stopping together, and one line if one dies."""

import json
import os
import signal
import socket
import time

import pytest
from tiny_runs import (
    FLOAT64,
    ROOT,
    TWO_PROCESSES,
    losses,
    processes_of,
    run,
    start,
    steps_saved,
    wait,
)

CPU = ROOT / "configs/accelerate/cpu.yaml"
NODES = ROOT / "configs/accelerate/multi_node.yaml"
TWO = {"accelerate": CPU, "launch": ("--multi_gpu", "--num_processes", "2")}

pytestmark = pytest.mark.slow


def _port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


MANY_TERMS = [
    "steps=20",
    "frozen_encoder_steps=8",
    "gradient_accumulation_steps=2",
    "checkpoint.every_steps=100",
    "stream.augment.time_mask_probability=0.3",
]


def test_one_and_two_processes_have_the_same_losses_within_1e_9_in_float64(settings, tmp_path):
    script, two = tmp_path / "float64.py", tmp_path / "two.yaml"
    script.write_text(FLOAT64.format(root=str(ROOT)))
    two.write_text(TWO_PROCESSES)
    found = []
    for number, more in enumerate(({}, {"accelerate": two})):
        done = run(settings, tmp_path / str(number), *MANY_TERMS, script=script, **more)
        assert done.returncode == 0 and f"on {number + 1} process" in done.stdout, done.stderr
        found.append([float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("LOSS")])
    assert len(found[0]) == 20 and len(set(found[0])) == 20
    assert found[1] == pytest.approx(found[0], rel=0, abs=1e-9)


def test_two_machines_make_the_same_steps_as_one_process(settings, tmp_path):
    alone = run(settings, tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    port, out = str(_port()), tmp_path / "both"
    machines = []
    for machine in (0, 1):
        launch = (
            "--num_machines",
            "2",
            "--num_processes",
            "2",
            "--machine_rank",
            str(machine),
            "--main_process_ip",
            "127.0.0.1",
            "--main_process_port",
            port,
        )
        launch += ("--mixed_precision", "no")
        machines.append(start(settings, tmp_path / f"machine{machine}", f"out={out}", accelerate=NODES, launch=launch))
    output = [
        (machine.wait(180), (tmp_path / f"machine{number}/output").read_text())
        for number, machine in enumerate(machines)
    ]
    assert [code for code, _ in output] == [0, 0], output
    assert "trained 6 steps on 2 processes" in output[0][1]
    assert losses(out) == pytest.approx(losses(tmp_path / "alone"), abs=2e-5)


def _two_endless(settings, out, *more):
    """Two processes that have made steps; returns (launcher, process ids)."""
    history = out / "a/history.jsonl"
    before = history.read_text().count("\n") if history.exists() else 0
    launcher = start(
        settings, out, "steps=1000000", "checkpoint.every_steps=100000", "distributed_timeout_s=10", *more, **TWO
    )
    wait(lambda: history.exists() and history.read_text().count("\n") > before + 3, launcher)
    pids = processes_of(out)
    assert len(pids) == 2
    return launcher, pids


def _all_gone(out, seconds=60.0):
    limit_s = time.monotonic() + seconds
    while processes_of(out) and time.monotonic() < limit_s:
        time.sleep(0.1)
    return not processes_of(out)


def test_signal_to_one_rank_or_the_launcher_stops_all_after_the_same_step(settings, tmp_path):
    steps = [0]
    for sent, which in ((signal.SIGUSR1, 0), (signal.SIGTERM, 1), (signal.SIGTERM, None)):
        launcher, pids = _two_endless(settings, tmp_path)
        launcher.send_signal(sent) if which is None else os.kill(pids[which], sent)
        assert launcher.wait(60) == 1 and _all_gone(tmp_path)
        steps.append(max(steps_saved(tmp_path)))
        output = (tmp_path / "output").read_text()
        assert (tmp_path / "a/REQUEUE").read_text() == f"{sent.name} after step {steps[-1]}\n"
        assert output.count(f"{sent.name}: stopped after step {steps[-1]} of") == 1 and "error: " not in output, output
    assert steps == sorted(set(steps))
    logged = [json.loads(line)["step"] for line in (tmp_path / "a/history.jsonl").read_text().splitlines()]
    assert logged == list(range(1, steps[-1] + 1))


@pytest.mark.parametrize(("sent", "which"), [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGSTOP, 1)])
def test_rank_exits_with_a_message_within_the_timeout_if_another_dies_or_hangs(settings, tmp_path, sent, which):
    launcher, pids = _two_endless(settings, tmp_path)
    began_s = time.monotonic()
    os.kill(pids[which], sent)
    other = pids[1 - which]
    wait(lambda: other not in processes_of(tmp_path), launcher, seconds=30)
    assert time.monotonic() - began_s < 20
    output = [line for line in (tmp_path / "output").read_text().splitlines() if "error: " in line]
    message = "another process of the run has ended or did not answer within distributed_timeout_s=10"
    assert len(output) == 1 and f"error: rank {1 - which}: {message}" in output[0], output
    if sent == signal.SIGSTOP:
        os.kill(pids[which], signal.SIGKILL)
    assert launcher.wait(60) == 1 and _all_gone(tmp_path)


def test_port_in_use_is_one_line(settings, tmp_path):
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        rank["MASTER_PORT"] = address.partition(":")[2]
        done = run(settings, tmp_path, "distributed_timeout_s=3", environment=rank)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith(
            f"error: rendezvous address {address} is in use by another program: set another main_process_port"
        )
        # The program that answers is not torch's store.
        done = run(settings, tmp_path, "distributed_timeout_s=3", environment=rank | {"RANK": "1"})
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith(
            f"error: rendezvous address {address} belongs to another program or did not answer"
        )
    done = run(settings, tmp_path, "distributed_timeout_s=3", environment=rank)
    assert (
        done.returncode == 1
        and f"error: rendezvous address {address} does not answer within distributed_timeout_s=3" in done.stderr
    )


def test_num_processes_alone_launches_one_process_on_the_cpu(settings, tmp_path):
    quietly_one = run(settings, tmp_path, "steps=1", accelerate=CPU, launch=("--num_processes", "2"))
    assert quietly_one.returncode == 0 and "trained 1 steps on 1 process:" in quietly_one.stdout


def test_precision_is_that_of_the_launcher(settings, tmp_path):
    found = []
    for precision in ("no", "bf16"):
        done = run(settings, tmp_path / precision, accelerate=CPU, launch=("--mixed_precision", precision))
        assert done.returncode == 0, done.stderr
        found.append(losses(tmp_path / precision))
    assert found[0] != found[1] and found[1][:4] == pytest.approx(found[0][:4], rel=0.03)
    done = run(settings, tmp_path, accelerate=CPU, launch=("--mixed_precision", "fp16"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: mixed_precision=fp16 is not supported on cpu")
