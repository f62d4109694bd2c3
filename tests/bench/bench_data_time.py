"""Fraction of the time that a training waits for its data (data_time_fraction), and the workers that a GPU needs.

`python tests/bench/bench_data_time.py [clips/s a GPU] [shards]`: default sizes and augmentation, batches of 32, and a
training that takes batches at a steady rate: a GPU that leaves the cores to the workers. Default: 400 clips/s, and the
shards of bench_stream.py (ten JPEGs of about 40 kB and 10 s of FLAC a clip). Needs an idle machine.

First, the speed of 1, 2, ... workers up to the cores of the machine. Then, with all of them, trainings that take 50 to
120 % of what they make: the share of the workers at which data_time_fraction stays near 0 tells the workers a GPU needs
at any rate, also one that this machine does not reach. Last, the given rate itself with each number of workers.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support"), str(ROOT / "tests/bench")]

BATCH, PREFETCH_FACTOR, MEASURED_S = 32, 4, 15.0
LOADS = 0.5, 0.7, 0.85, 0.95, 1.05, 1.2
MAX_DATA_TIME_FRACTION = 0.02


def batches(folder: Path, num_workers: int) -> Iterator:
    from configs.schema import StreamConfig, StreamSourceConfig
    from pipelines.stream.loader import open_stream

    sources = [StreamSourceConfig(name="a", shards=[str(folder)])]
    config = StreamConfig(sources=sources, num_workers=num_workers, prefetch_factor=PREFETCH_FACTOR)
    return open_stream(config, 0, BATCH).batches()


def rate(folder: Path, num_workers: int) -> float:
    """Clips per second of workers whose batches are taken at once."""
    stream = batches(folder, num_workers)
    for _ in range(num_workers * PREFETCH_FACTOR + 1):
        next(stream)
    began_s, clips = time.perf_counter(), 0
    while time.perf_counter() < began_s + MEASURED_S:
        clips += len(next(stream))
    return clips / (time.perf_counter() - began_s)


def data_time_fraction(folder: Path, num_workers: int, clips_per_s: float) -> float:
    """Of a training whose device takes so many clips a second, after the batches loaded before its first step."""
    stream, step_s = batches(folder, num_workers), BATCH / clips_per_s
    for _ in range(num_workers * PREFETCH_FACTOR + 1):
        next(stream)
        time.sleep(step_s)
    began_s, waited_s = time.perf_counter(), 0.0
    while time.perf_counter() < began_s + MEASURED_S:
        asked_s = time.perf_counter()
        next(stream)
        waited_s += time.perf_counter() - asked_s
        time.sleep(step_s)
    return waited_s / (time.perf_counter() - began_s)


def main(clips_per_s: float, folder: Path) -> None:
    most = len(os.sched_getaffinity(0))
    rates = {workers: rate(folder, workers) for workers in range(1, most + 1)}
    print("workers:            " + ", ".join(f"{workers}: {found:.0f} clips/s" for workers, found in rates.items()))
    waits = {load: data_time_fraction(folder, most, load * rates[most]) for load in LOADS}
    print(f"data_time_fraction of a training that takes this fraction of what {most} workers make:")
    print("                    " + ", ".join(f"{load:.0%}: {waited:.1%}" for load, waited in waits.items()), flush=True)
    highest = max((load for load, waited in waits.items() if waited <= MAX_DATA_TIME_FRACTION), default=LOADS[0])
    needed = math.ceil(clips_per_s / (highest * rates[1]))
    print(f"{clips_per_s:g} clips/s a GPU: {needed} workers a GPU, used at most {highest:.0%}")
    for workers in rates:
        waited = data_time_fraction(folder, workers, clips_per_s)
        print(f"  measured with {workers} workers on {most} cores: data_time_fraction {waited:.1%}", flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        if len(given) > 1:
            shards = Path(given[1])
        else:
            from bench_stream import write_shards

            shards = write_shards(Path(scratch), "flac")
        main(float(given[0]) if given else 400.0, shards)
