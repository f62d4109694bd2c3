"""Ordered ids of a stream: the same for every number of ranks and workers, and after kills and resumes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT
from tiny_shards import write_data_set

from configs.schema import AugmentConfig, StreamConfig, StreamSourceConfig
from pipelines.stream.loader import open_stream

BATCH = 8

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    return [
        write_data_set(root / "a", [20] * 8, changes={5: {"flac": b"x"}}),
        write_data_set(root / "b", [20] * 4, prefix="other"),
    ]


def config(folders, num_workers: int) -> StreamConfig:
    sources = [StreamSourceConfig(name=folder.name, shards=[str(folder)]) for folder in folders]
    quiet = AugmentConfig(audio_splice_max_s=0.0, time_mask_probability=0.0)
    return StreamConfig(
        sources=sources,
        image_size_px=16,
        clip_duration_s=0.4,
        num_workers=num_workers,
        prefetch_factor=2,
        shuffle_window_clips=16,
        max_error_rate=1.0,
        augment=quiet,
    )


def ids_of_steps(folders, first: int, steps: int, world_size: int = 1, num_workers: int = 0) -> list[list[str]]:
    """The ids of each global batch in the order of their positions, merged from all ranks."""
    merged: list[dict[int, str]] = [{} for _ in range(steps)]
    stream = open_stream(config(folders, num_workers), 0, BATCH)
    for rank in range(world_size):
        batches = stream.batches(rank, world_size, first)
        for found, batch in zip(merged, batches, strict=False):
            assert len(batch) == BATCH // world_size
            found.update(zip(batch.position, batch.id, strict=True))
    return [[found[position] for position in sorted(found)] for found in merged]


@pytest.fixture(scope="module")
def expected(folders):
    """The ids of steps 28 to 32 on one rank, without workers."""
    return ids_of_steps(folders, 28, 5)


@pytest.mark.parametrize(
    ("world_size", "num_workers"),
    [(1, 0), (1, 1), (1, 3), (2, 0), (2, 1), (4, 0)]
    + [pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((2, 3), (4, 1), (4, 3))],
)
def test_ordered_ids_are_the_same_for_every_number_of_ranks_and_workers(folders, expected, world_size, num_workers):
    assert ids_of_steps(folders, 28, 5, world_size, num_workers) == expected


RUN = """
import json, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests/support", {root!r} + "/tests/pipelines/stream"]
import test_resume as here
from pathlib import Path
from pipelines.stream.loader import open_stream

if __name__ == "__main__":
    folders, rank, world_size, first, num_workers = [Path(p) for p in sys.argv[1:3]], *map(int, sys.argv[3:])
    stream = open_stream(here.config(folders, num_workers), 0, here.BATCH)
    for step, batch in enumerate(stream.batches(rank, world_size, first), first):
        print(json.dumps([step, dict(zip(batch.position, batch.id))]), flush=True)
"""


@pytest.mark.slow
def test_ordered_ids_continue_after_kills_at_random_steps_and_changes_of_world_size(folders, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN.format(root=str(ROOT)))
    draw, step, seen = random.Random(1), 0, []
    for world_size, num_workers in ((1, 2), (2, 1), (4, 1), (1, 0)):
        until = step + draw.randrange(4, 12)
        logs = [tmp_path / f"{step}-{rank}.jsonl" for rank in range(world_size)]
        ranks = [_start(script, log, *folders, rank, world_size, step, num_workers) for rank, log in enumerate(logs)]
        _wait(lambda logs=logs, lines=until - step: all(log.read_text().count("\n") > lines for log in logs))
        for process in ranks:
            process.send_signal(signal.SIGKILL)
            process.wait()
        printed = [[json.loads(line) for line in log.read_text().splitlines()[: until - step]] for log in logs]
        for lines in zip(*printed, strict=True):
            merged = {int(position): clip for _, ids in lines for position, clip in ids.items()}
            seen.append([merged[position] for position in sorted(merged)])
        step = until
    assert seen == ids_of_steps(folders, 0, step)
    assert step >= 16


def _start(script: Path, log: Path, *arguments) -> subprocess.Popen:
    with log.open("w") as out:
        return subprocess.Popen(
            [sys.executable, script, *map(str, arguments)], stdout=out, env=os.environ | {"PYTHONWARNINGS": "ignore"}
        )


def _wait(condition, seconds: float = 240.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)
