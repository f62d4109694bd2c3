"""A run killed ten times, at random steps and while saving, is bit-identical to an uninterrupted one."""

import os
import random
import signal

import pytest
from tiny_runs import (
    ROOT,
    TWO_PROCESSES,
    assert_same_checkpoint,
    losses,
    processes_of,
    run,
    settings_of_a_run,
    start,
    steps_saved,
    wait,
)

STEPS = [
    "steps=80",
    "frozen_encoder_steps=30",
    "checkpoint.every_steps=2",
    "checkpoint.keep_last=3",
    "optim.ema_decay=0.9",
    "optim.adaptive_clip_factor=1.5",
]

# Writes a digest of the inputs before each forward pass.
WATCHED = """
import hashlib, os, sys
sys.path[:0] = [{root!r}]
import torch

def log_digest(module, inputs):
    if type(module).__name__ == "DenseAV":
        digest = hashlib.sha256(b"".join(x.contiguous().numpy().tobytes() for x in inputs[:3])).hexdigest()
        with open(os.environ["SEEN"], "a") as file:
            file.write(digest + "\\n")

torch.nn.modules.module.register_module_forward_pre_hook(log_digest)

if __name__ == "__main__":
    import train
    sys.exit(train.run(train.TrainConfig, "", train.main))
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return [*settings_of_a_run(tmp_path_factory.mktemp("data")), *STEPS]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_at_random_steps_and_while_saving_change_nothing(settings, tmp_path):
    script, uninterrupted, out, draw = (
        tmp_path / "watched.py",
        tmp_path / "uninterrupted",
        tmp_path / "out",
        random.Random(6),
    )
    script.write_text(WATCHED.format(root=str(ROOT)))
    done = run(settings, uninterrupted, script=script, environment={"SEEN": str(tmp_path / "uninterrupted.seen")})
    assert done.returncode == 0, done.stderr
    expected = (tmp_path / "uninterrupted.seen").read_text().split()
    assert len(set(expected)) == 80

    saving, seen = 0, []
    for number in range(10):
        log = tmp_path / f"{number}.seen"
        process = start(settings, out, script=script, environment={"SEEN": str(log)})
        wanted = draw.randrange(1, 12)
        wait(lambda log=log, wanted=wanted: log.exists() and log.read_text().count("\n") >= wanted, process)
        if number % 2:
            wait(lambda: list(out.glob("a/checkpoints/.step_*.tmp/*")), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        saving += bool(list(out.glob("a/checkpoints/.step_*.tmp")))
        seen.append(log.read_text().split())
    assert saving >= 3 and "Traceback" not in (out / "output").read_text()
    log = tmp_path / "last.seen"
    done = run(settings, out, script=script, environment={"SEEN": str(log)})
    assert done.returncode == 0 and not list(out.glob("a/checkpoints/.*")), done.stderr

    reached = 0
    for digests in [*seen, log.read_text().split()]:
        first = expected.index(digests[0])
        assert first <= reached and digests == expected[first : first + len(digests)]
        reached = max(reached, first + len(digests))
    assert reached == 80
    assert losses(out) == losses(uninterrupted) and len(losses(out)) == 80
    assert_same_checkpoint(uninterrupted, out, 80, ("model", "optimizer", "clipping", "ema"))


@pytest.mark.slow
def test_two_killed_processes_resume_bit_identically(settings, tmp_path):
    (tmp_path / "two.yaml").write_text(TWO_PROCESSES)
    uninterrupted, out = tmp_path / "uninterrupted", tmp_path / "out"
    done = run(settings, uninterrupted, accelerate=tmp_path / "two.yaml")
    assert done.returncode == 0, done.stderr
    launcher = start(settings, out, accelerate=tmp_path / "two.yaml")
    wait(lambda: max(steps_saved(out), default=0) > 34, launcher)
    for pid in (launcher.pid, *processes_of(out)):
        os.kill(pid, signal.SIGKILL)
    launcher.wait()
    assert max(steps_saved(out)) < 80
    done = run(settings, out, accelerate=tmp_path / "two.yaml")
    assert done.returncode == 0 and "resuming after step" in done.stdout, done.stderr
    assert losses(out) == losses(uninterrupted)
    assert_same_checkpoint(uninterrupted, out, 80, ("model", "optimizer", "clipping", "ema"))
