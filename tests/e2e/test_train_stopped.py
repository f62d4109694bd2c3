"""Stopping the training command in each phase and by every means leaves a checkpoint, and resuming is bit-identical."""

import json
import os
import signal
import time

import pytest
from flaky_http import serve_flaky
from tiny_disk import tiny_disk
from tiny_runs import assert_same_checkpoint, losses, run, settings_of_a_run, start, steps_saved, wait
from tiny_shards import write_data_set

STEPS = [
    "steps=60",
    "frozen_encoder_steps=30",
    "optim.warmup_steps=15",
    "checkpoint.every_steps=1000",
    "optim.ema_decay=0.9",
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return [*settings_of_a_run(tmp_path_factory.mktemp("data")), *STEPS]


def _lines(out):
    history = out / "a/history.jsonl"
    return len(history.read_text().splitlines()) if history.exists() else 0


def _stopped(out, process, code, last="the same command resumes"):
    """Wait for the process to end; returns the step it stopped after."""
    assert process.wait(60) == code, (out / "output").read_text()
    output = (out / "output").read_text()
    assert last in output.splitlines()[-1] and "Traceback" not in output and "leaked" not in output, output
    return max(steps_saved(out), default=0)


def test_sigterm_to_all_processes_leaves_a_checkpoint_and_the_marker(settings, tmp_path):
    process = start(settings, tmp_path, "steps=100000")
    wait(lambda: _lines(tmp_path) > 3, process)
    os.killpg(process.pid, signal.SIGTERM)  # like a scheduler: the loader's processes get it too
    step = _stopped(tmp_path, process, 75)
    assert step == _lines(tmp_path) and (tmp_path / "a/REQUEUE").read_text() == f"SIGTERM after step {step}\n"
    with pytest.raises(ProcessLookupError):  # all processes have ended a moment later
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_run_stopped_repeatedly_in_each_phase_equals_an_uninterrupted_one(settings, tmp_path):
    uninterrupted, out = tmp_path / "uninterrupted", tmp_path / "out"
    done = run(settings, uninterrupted)
    assert done.returncode == 0, done.stderr

    def interrupt(until, sent, code, *more):
        process = start(settings, out, *more)
        wait(until, process)
        process.send_signal(sent)
        step = _stopped(out, process, code)
        assert (out / "a/REQUEUE").exists() == (code == 75)
        return step

    # before the first step: no checkpoint yet
    assert interrupt(lambda: (out / "a/config.yaml").exists(), signal.SIGTERM, 75) in (0, 1, 2)
    # in the warm-up, by each signal
    steps = [
        interrupt(lambda: _lines(out) >= 4, signal.SIGUSR1, 75),
        interrupt(lambda: _lines(out) >= 8, signal.SIGINT, 130),
    ]
    # while a checkpoint is being written
    temporary = (out / "a/checkpoints").glob
    steps.append(
        interrupt(lambda: next(temporary(".step_*.tmp"), None), signal.SIGTERM, 75, "checkpoint.every_steps=1")
    )
    # in the second phase's warm-up, and after it
    steps += [
        interrupt(lambda: _lines(out) >= 33, signal.SIGTERM, 75),
        interrupt(lambda: _lines(out) >= 48, signal.SIGTERM, 75),
    ]
    assert steps == sorted(set(steps)) and steps[0] >= 4 and steps[-1] < 60
    done = run(settings, out)
    assert (
        done.returncode == 0
        and f"resuming after step {steps[-1]} of" in done.stdout
        and not (out / "a/REQUEUE").exists()
    )
    assert losses(out) == losses(uninterrupted) and len(losses(out)) == 60
    assert_same_checkpoint(uninterrupted, out, 60, ("model", "optimizer", "clipping", "ema"))


@pytest.mark.slow
def test_time_limit_stops_the_run_in_time(settings, tmp_path):
    began_s = time.monotonic()
    done = run(settings, tmp_path, "steps=1000000", "time_limit_min=0.5")
    step = max(steps_saved(tmp_path))
    assert done.returncode == 75 and (tmp_path / "a/REQUEUE").read_text() == f"TIME_LIMIT after step {step}\n"
    assert 30 < time.monotonic() - began_s < 60 and f"TIME_LIMIT: stopped after step {step} of" in done.stdout


def _waiting_for_data(settings, server, tmp_path):
    """A run that has made steps and waits for a shard that never arrives."""
    sources = [text for text in settings if not text.startswith("stream.sources")]
    sources += [
        f"stream.sources=[{{name: far, shards: '{server.address}'}}]",
        f"stream.cache_dir={tmp_path}/cache",
        "stream.shuffle_window_clips=4",
        "stream.lanes=1",
    ]
    server.plan({"train-000001.tar": ["hang", "..."]})
    process = start([*sources, "steps=100000"], tmp_path)
    wait(lambda: _lines(tmp_path) > 0, process)
    lines = -1
    while lines < _lines(tmp_path):
        lines = _lines(tmp_path)
        time.sleep(2)
    return process, lines


@pytest.mark.slow
def test_run_waiting_for_hanging_data_can_be_stopped(settings, tmp_path):
    folder = write_data_set(tmp_path / "set", [12, 10])
    with serve_flaky(folder) as server:
        process, step = _waiting_for_data(settings, server, tmp_path)
        began_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert _stopped(tmp_path, process, 75) == step
        assert time.monotonic() - began_s < 10


def _fill(path):
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


@pytest.mark.slow
def test_full_disk_is_a_warning_but_a_failed_last_checkpoint_is_an_error(settings, tmp_path):
    with tiny_disk(tmp_path, "60m") as disk:
        out, output = disk / "out", tmp_path / "output"
        out.mkdir()
        (out / "output").symlink_to(output)
        process = start(settings, out, "steps=1000000", "checkpoint.every_steps=5", "checkpoint.keep_last=1")
        wait(lambda: steps_saved(out), process)
        _fill(disk / "filler")
        wait(lambda: output.read_text().count("warning: no checkpoint of step") >= 2, process)
        before = steps_saved(out)
        assert "No space left on device" in output.read_text() and before and not list(out.glob("a/checkpoints/.*"))
        (disk / "filler").unlink()
        wait(lambda: steps_saved(out) > before, process)
        _fill(disk / "filler")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
        assert (
            "error: " in output.read_text().splitlines()[-1]
            and "cannot write the last checkpoint; free some space" in output.read_text().splitlines()[-1]
        )
        assert "Traceback" not in output.read_text() and not (out / "a/REQUEUE").exists()
        (disk / "filler").unlink()
        newest = max(steps_saved(out))
        done = run(settings, out, f"steps={newest + 4}", "frozen_encoder_steps=30")
        assert done.returncode == 0 and f"resuming after step {newest} of" in done.stdout, done.stderr
        steps = [json.loads(line)["step"] for line in (out / "a/history.jsonl").read_text().splitlines() if line]
        assert steps[-4:] == list(range(newest + 1, newest + 5)) and len(steps) == len(set(steps))
