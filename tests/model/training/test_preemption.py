"""Stopping on signals and time limits, the same on all ranks, also while data do not arrive."""

import itertools
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from paths import ROOT

from configs.errors import CommandFailed
from model.training import preemption
from model.training.preemption import POLL_INTERVAL_S, Preemption, StopReason


@pytest.fixture
def restore_handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


pytestmark = pytest.mark.usefixtures("restore_handlers")


@pytest.mark.parametrize(
    ("sent", "reason", "exit_code", "requeue"),
    [
        (signal.SIGTERM, StopReason.SIGTERM, 75, True),
        (signal.SIGUSR1, StopReason.SIGUSR1, 75, True),
        (signal.SIGINT, StopReason.INTERRUPT, 130, False),
    ],
)
def test_each_signal_stops_before_the_next_item_with_its_exit_code(sent, reason, exit_code, requeue):
    stop = Preemption()
    items = itertools.count()
    assert stop.next_or_stop(items) == 0 and not stop.reason
    os.kill(os.getpid(), sent)
    assert stop.next_or_stop(items) is None and stop.next_or_stop(items) is None
    assert (stop.reason, stop.reason.exit_code, stop.reason.should_requeue) == (reason, exit_code, requeue)


@pytest.mark.parametrize(
    ("rank", "lines"), [("0", ["SIGTERM: stopping after the current step, then saving"]), ("1", [])]
)
def test_rank_0_acknowledges_the_first_signal_at_once(capfd, monkeypatch, rank, lines):
    monkeypatch.setenv("RANK", rank)
    Preemption()
    for sent in (signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1):
        os.kill(os.getpid(), sent)
    assert capfd.readouterr().err.split("\n")[1:-1] == lines


def test_duplicate_interrupt_time_starts_with_the_first_ctrl_c(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(preemption, "time", SimpleNamespace(time=time.time, monotonic=lambda: now_s[-1]))
    Preemption()
    signal.raise_signal(signal.SIGINT)
    now_s.append(100.6)
    signal.raise_signal(signal.SIGINT)
    now_s.append(101.2)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_second_ctrl_c_ends_at_once_but_a_duplicate_does_not():
    Preemption()
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1.1)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_scheduler_signal_takes_precedence_over_ctrl_c():
    stop = Preemption()
    for sent in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), sent)
    assert stop.local_reason() == StopReason.SIGTERM


def test_time_limit_counts_from_the_start():
    stop = Preemption(time_limit_min=0.3 / 60)
    assert stop.next_or_stop(itertools.count()) == 0
    time.sleep(0.35)
    assert (
        stop.next_or_stop(itertools.count()) is None
        and stop.reason == StopReason.TIME_LIMIT
        and stop.reason.exit_code == 75
    )


@pytest.mark.parametrize(("left_s", "local_reason"), [(299, StopReason.TIME_LIMIT), (310, StopReason.NONE)])
def test_run_stops_five_minutes_before_the_slurm_job_ends(monkeypatch, left_s, local_reason):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + left_s))
    assert Preemption().local_reason() == local_reason
    assert Preemption(time_limit_min=600.0).local_reason() == local_reason


def test_invalid_slurm_end_time_is_ignored(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", "Unknown")
    assert Preemption().local_reason() == StopReason.NONE


def _never():
    threading.Event().wait()
    yield


@pytest.mark.parametrize(("ends", "code"), [("stop.ignore_signals()", 0), ("", -signal.SIGUSR1)])
def test_ignored_signals_do_not_end_a_process_that_is_exiting(ends, code):
    """Without `ignore_signals` Python ends: it has restored the default actions when it frees the last objects."""
    script = f"""
import os, signal
from model.training.preemption import Preemption

stop = Preemption()
{ends}

class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGUSR1):
        kill(pid, number)

signal.last = Last()  # modules of the interpreter are the last to go
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE).returncode == code


def test_hanging_data_do_not_keep_a_run_from_stopping():
    stop = Preemption()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began_s = time.monotonic()
    assert stop.next_or_stop(_never()) is None
    assert time.monotonic() - began_s < 0.2 + 3 * POLL_INTERVAL_S


def test_errors_of_the_iterator_are_raised_by_next_or_stop():
    with pytest.raises(ZeroDivisionError):
        Preemption().next_or_stop(1 // number for number in [0])


def _rank(rank, world_size, port, behaviour, results):
    """Take items until stopped; puts (rank, items taken, reason or error) into `results`."""
    torch.set_num_threads(1)
    stop = Preemption()
    store = torch.distributed.TCPStore("127.0.0.1", port, world_size, rank == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    stop.join(60.0)
    taken = 0

    def items():
        for number in itertools.count():
            if rank == 1 and number == 5:
                if behaviour == "signal":
                    os.kill(os.getpid(), signal.SIGUSR1)
                elif behaviour == "fail":
                    raise ZeroDivisionError
            if rank == 0 and number == 5 and behaviour == "signal":
                threading.Event().wait()
            if rank == 0 and number == 3:
                time.sleep(2.5 * POLL_INTERVAL_S)
            yield number

    source = items()
    try:
        while (item := stop.next_or_stop(source)) is not None:
            assert item == taken
            taken += 1
        results.put((rank, taken, stop.reason.name, stop.all_ranks(rank == 0), stop.all_ranks(True)))
    except (ZeroDivisionError, CommandFailed) as error:
        results.put((rank, taken, type(error).__name__))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _run_ranks(behaviour, world_size=3):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [
        context.Process(target=_rank, args=(rank, world_size, port, behaviour, results)) for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    outcomes = sorted(results.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    return outcomes


@pytest.mark.slow
def test_signal_to_one_rank_stops_all_after_the_same_step_even_if_one_hangs():
    assert _run_ranks("signal") == [(rank, 5, "SIGUSR1", False, True) for rank in range(3)]


@pytest.mark.slow
def test_failed_rank_reports_its_error_and_the_others_stop_too():
    assert _run_ranks("fail") == [(0, 5, "CommandFailed"), (1, 5, "ZeroDivisionError"), (2, 5, "CommandFailed")]
