"""Run the training command on two small real data sets, in separate processes."""

import atexit
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from paths import ROOT
from safetensors.torch import load_file
from tiny_shards import write_data_set

TWO_PROCESSES = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
use_cpu: true
num_machines: 1
num_processes: 2
machine_rank: 0
main_process_port: 0
mixed_precision: "no"
dynamo_backend: "no"
"""
# Everything in float64: parameters by torch's default, inputs by a hook, and losses printed before they are rounded.
FLOAT64 = """
import sys
sys.path[:0] = [{root!r}]
import torch
torch.set_default_dtype(torch.float64)
from model.training.tracking import History

def to_double(x):
    return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x

def cast(module, inputs):
    return tuple(map(to_double, inputs)) if type(module).__name__ == "DenseAV" else None

def add(history, step, values):
    print("LOSS", values["loss/total"], flush=True)

torch.nn.modules.module.register_module_forward_pre_hook(cast)
History.add = add

if __name__ == "__main__":
    import train
    sys.exit(train.run(train.TrainConfig, "", train.main))
"""
SETTINGS = [
    "steps=6", "frozen_encoder_steps=3", "global_batch_size=8", "tracker=none", "log_every_steps=1",
    "checkpoint.every_steps=1", "checkpoint.keep_last=9", "stream.image_size_px=32", "stream.clip_duration_s=0.64",
    "stream.num_workers=1", "stream.augment.audio_splice_max_s=0.3", "stream.augment.audio_splice_min_s=0.1",
    "stream.augment.time_mask_probability=0.0", "model.embed_dim=16", "model.num_heads=2",
    "model.audio_projection=linear", "model.image_pool_size=1", "optim.warmup_steps=1", "optim.lr=0.001",
    "optim.eps=0.0001",  # Adam would turn the rounding errors of gradients near 0 into full steps
    "loss.num_sampled_positions=20",
]  # fmt: skip


def settings_of_a_run(root: Path, clips: Sequence[int] = (9, 8)) -> list[str]:
    """Write two small real data sets with shards of `clips` below `root`; returns the arguments of a run on them."""
    folders = [write_data_set(root / name, list(clips), prefix=name) for name in ("first", "second")]
    sources = ", ".join(f"{{name: {folder.name}, shards: {folder}}}" for folder in folders)
    return [*SETTINGS, f"stream.sources=[{sources}]"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    """Settings of a run with default data."""
    return settings_of_a_run(tmp_path_factory.mktemp("data"))


def command(settings, out, *more, accelerate=None, script="train.py", launch=()):
    """The command line; the last value of a key counts. `accelerate` is the launcher's file, `launch` its arguments."""
    launcher = (
        [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file", str(accelerate), *launch]
        if accelerate
        else [sys.executable]
    )
    given = {text.partition("=")[0]: text for text in (*settings, f"out={out}", "name=a", *more)}
    return [*launcher, str(script), *given.values()]


def run(settings, out, *more, environment=None, timeout=240, **keywords):
    """Run the command to its end."""
    given = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    return subprocess.run(
        command(settings, out, *more, **keywords), cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=given
    )


def start(settings, out, *more, environment=None, **keywords):
    """Start the command in a new session, in the background; its output goes to out/output."""
    given = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    out.mkdir(parents=True, exist_ok=True)
    with (out / "output").open("ab") as output:
        process = subprocess.Popen(
            command(settings, out, *more, **keywords),
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env=given,
            start_new_session=True,
        )
    atexit.register(process.terminate)  # if a test fails
    return process


def wait(condition, process, seconds=120.0):
    """Wait until the condition holds; the process must not end before."""
    limit_s = time.monotonic() + seconds
    while not (value := condition()):
        assert process.poll() is None, "the run has ended"
        assert time.monotonic() < limit_s, "waited in vain"
        time.sleep(0.005)
    return value


def steps_saved(out):
    return sorted(int(path.parent.name[5:]) for path in out.glob("a/checkpoints/step_*/manifest.json"))


def weights(out, step, file="model"):
    return load_file(out / f"a/checkpoints/step_{step:08d}/{file}.safetensors")


def assert_same_checkpoint(one, other, step, files=("model", "optimizer", "clipping")):
    for file in files:
        expected, found = weights(one, step, file), weights(other, step, file)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert torch.equal(value, found[name]), (file, name)


def losses(out):
    return [json.loads(line)["loss/total"] for line in (out / "a/history.jsonl").read_text().splitlines()]


def processes_of(out):
    """Process ids of a run's ranks, without the launcher and the loader's workers."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = cmdline.read_bytes().split(b"\0")
        except OSError:
            continue
        if (
            f"out={out}".encode() in words
            and b"--config_file" not in words
            and b"accelerate.commands.launch" not in words
        ):
            found.append(int(cmdline.parent.name))
    return sorted(found)
