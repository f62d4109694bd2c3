"""The number of threads of a training process: the choice from free cores, and who set OMP_NUM_THREADS."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.training import cpu_threads

ROOT = Path(__file__).resolve().parents[3]
LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "2"}
# As `accelerate launch` does.
LAUNCHER = """
import os, subprocess, sys
environment = {"OMP_NUM_THREADS": "2"} | os.environ | {"ACCELERATE_MIXED_PRECISION": "no"}
subprocess.run([sys.executable, "-c", sys.argv[1], *sys.argv[2:]], env=environment, check=True)
"""
PROCESS = """
import torch
from accelerate import Accelerator
from model.training.cpu_threads import set_num_threads
set_num_threads(Accelerator(cpu=True), 0, 1.0)
print(torch.get_num_threads())
"""


@pytest.mark.parametrize(
    ("free", "cpu_limit", "processes", "num_workers", "expected"),
    [
        (2.0, 0.0, 1, 0, 2),
        (2.0, 0.0, 1, 1, 2),  # a worker uses a fraction of a core
        (1.9, 0.0, 1, 2, 1),
        (0.0, 0.0, 1, 1, 1),  # two busy processes on two cores
        (1.0, 0.0, 1, 1, 1),
        (16.0, 0.0, 1, 0, 16),
        (16.0, 4.0, 1, 0, 4),  # limit of the control group
        (3.0, 4.0, 1, 0, 3),  # other processes leave less than the limit
        (16.0, 1.5, 1, 8, 1),
        (16.0, 0.0, 2, 4, 7),
        (16.0, 0.0, 64, 2, 1),
    ],
)
def test_threads_fill_the_free_cores_of_each_process(free, cpu_limit, processes, num_workers, expected):
    assert cpu_threads.default_num_threads(free, cpu_limit, processes, num_workers) == expected


@pytest.mark.parametrize(
    ("environ", "parent", "command", "expected"),
    [
        ({}, {}, ["bash"], False),
        ({"OMP_NUM_THREADS": "2"}, {}, ["bash"], True),
        (LAUNCHED, {}, ["accelerate", "launch"], False),
        (LAUNCHED, {"OMP_NUM_THREADS": "2"}, ["accelerate", "launch"], True),
        (LAUNCHED, {}, ["accelerate", "launch", "--num_cpu_threads_per_process", "2"], True),
        (LAUNCHED, {}, ["accelerate", "launch", "--num_cpu_threads_per_process=2"], True),
        (LAUNCHED, {"ACCELERATE_MIXED_PRECISION": "no"}, ["bash"], True),  # exported by the user, no launcher
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "a"}, {}, ["torchrun"], False),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "a"}, {"OMP_NUM_THREADS": "1"}, ["torchrun"], True),
    ],
)
def test_a_number_of_threads_from_a_launcher_is_not_the_users(environ, parent, command, expected):
    assert cpu_threads.is_set_by_user(environ, parent, command) is expected


STAT = """cpu  400 900 100 5000 0 0 0 0 0 0
cpu0 {user} 900 50 2500 700 {irq} 0 {steal} 0 0
cpu1 200 {nice} 50 2500 0 0 0 0 0 0
intr 1
"""


def test_used_cpu_time_counts_steal_and_interrupts_and_leaves_out_idle_and_niced_processes():
    ticks = os.sysconf("SC_CLK_TCK")
    before = cpu_threads.cpu_seconds(STAT.format(user=200, nice=0, irq=0, steal=0))
    after = cpu_threads.cpu_seconds(STAT.format(user=200 + ticks, nice=ticks, irq=ticks // 2, steal=ticks // 4))
    assert after[0] - before[0] == pytest.approx(1.75, abs=0.02)
    assert after[1] == before[1]


@pytest.mark.parametrize(
    ("cores", "used", "expected"),
    [
        ([{0}, {1}], {0: 0.0, 1: 0.0}, 2.0),
        ([{0}, {1}], {0: 0.5, 1: 0.0}, 1.0),  # one process of half a second in half a second
        ([{0}, {1}], {0: 0.5, 1: 0.6}, 0.0),
        ([{0, 2}, {1, 3}], {0: 0.5, 1: 0.0, 2: 0.5, 3: 0.0}, 1.0),  # two threads of one core
        ([{5}], {}, 1.0),  # not in /proc/stat
    ],
)
def test_free_cores_are_those_without_other_processes(cores, used, expected):
    assert cpu_threads.free_cores(cores, dict.fromkeys(used, 0.0), used, 0.5) == pytest.approx(expected)


def test_logical_cpus_that_share_a_core_count_once(tmp_path):
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        (tmp_path / f"cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}/topology/thread_siblings_list").write_text(f"{siblings}\n")
    assert sorted(map(sorted, cpu_threads.physical_cores([0, 1, 2, 7], tmp_path))) == [[0, 2], [1], [7]]


def test_a_busy_process_is_found_in_the_kernels_counters():
    command = [sys.executable, "-c", "while True: pass"]
    process = subprocess.Popen(command)
    try:
        time.sleep(0.2)
        free, cores = cpu_threads.measure_free_cores()
    finally:
        process.kill()
        process.wait()
    assert 0 <= free < cores - 0.5


@pytest.mark.parametrize(
    ("by_user", "expected"),
    [({}, ["threads: 1 (", "1"]), ({"OMP_NUM_THREADS": "2"}, ["threads: 2 (OMP_NUM_THREADS)", "2"])],
    ids=["chosen", "set"],
)
def test_the_users_number_wins_over_the_choice_and_the_choice_over_the_launchers(by_user, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, PROCESS],
        env=environment | {"PYTHONPATH": str(ROOT)} | by_user,
        capture_output=True,
        text=True,
        timeout=120,
    )
    line, threads = done.stdout.splitlines()
    assert (expected[0] in line, threads) == (True, expected[1]), done.stderr
    assert ("limit of the control group 1" in line) is (not by_user)
