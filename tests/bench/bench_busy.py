"""Scores and training steps on a CPU beside two busy processes: `python tests/bench/bench_busy.py [pairs]`

1. Forward and backward of the scores of 64 pairs (2 heads of 192 channels, 14 x 14 cells, 56 steps, fp32) with two
   threads: fused and dense take turns, so that both meet the same load. Target (issue 18): fused at least 2 times
   faster.
2. A training step of the toy model, 48 pairs, with 1 thread, 2 threads and the number that training would choose.
   Target: no number more than 1.3 times faster than the chosen one.

Each table is measured alone and beside two processes that compute without end. Medians of three runs.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

HEADS, CHANNELS, SIDE, STEPS = 2, 192, 14, 56
RUNS = 3


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run processes that use all the CPU time they get."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(1)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def medians_s(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each call; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(RUNS):
        for name, call in calls.items():
            began_s = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began_s)
    return {name: statistics.median(values) for name, values in seconds.items()}


def scores(pairs: int, aggregation: str) -> dict[str, float]:
    """Seconds of dense and fused scores with two threads."""
    import torch

    from model.features import AudioFeatures, ImageFeatures
    from model.similarity import dense, fused
    from model.similarity.config import SimilarityConfig

    torch.set_num_threads(2)
    torch.manual_seed(0)
    audio = torch.randn(pairs, HEADS, CHANNELS, STEPS, requires_grad=True)
    image = torch.randn(pairs, HEADS, CHANNELS, SIDE, SIDE, requires_grad=True)
    features = AudioFeatures(audio, torch.ones(pairs, STEPS, dtype=torch.bool)), ImageFeatures(image)

    def step(module: Any) -> None:
        loss = module.pairwise_similarity(*features, SimilarityConfig(aggregation)).logsumexp(dim=1).sum()
        torch.autograd.grad(loss, (audio, image))

    return medians_s({"dense": lambda: step(dense), "fused": lambda: step(fused)})


def training_steps(chosen: int) -> dict[str, float]:
    """Seconds of a training step of the toy model with 1 thread, 2 threads and the chosen number."""
    import torch
    from tiny_batch import tiny_batch

    from configs.load import load
    from configs.schema import TrainConfig
    from model.build import build_denseav
    from model.denseav import InputSpec
    from model.training.optim import build_optimizer
    from model.training.step import forward_loss

    config = load(TrainConfig, ["config=configs/train/toy.yaml"])
    inputs = InputSpec(config.stream.image_size_px, config.stream.clip_duration_s, config.stream.sample_rate_hz)
    torch.manual_seed(0)
    model = build_denseav(config.model, inputs).train()
    optimizer = build_optimizer(config.optim, model)
    samples = round(inputs.clip_duration_s * inputs.sample_rate_hz)
    batch: Any = tiny_batch(config.global_batch_size, inputs.image_size_px, samples)

    def step(threads: int) -> None:
        torch.set_num_threads(threads)
        forward_loss(model, batch, model.similarity_config, config.loss, 0).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(1)
    return medians_s({f"{name}: {n}": lambda n=n: step(n) for name, n in (("1", 1), ("2", 2), ("chosen", chosen))})  # type: ignore[misc]


def chosen_threads() -> int:
    """The number of threads that training would choose now, with one loader worker."""
    from model.training import cpu_threads
    from pipelines.cgroup import cgroup_limit

    free, _ = cpu_threads.measure_free_cores()
    return cpu_threads.default_num_threads(free, cgroup_limit("cpu"), 1, 1)


def main(pairs: int) -> None:
    """Print both tables."""
    print(f"load of other programs: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")
    for count in (0, 2):
        with busy_processes(count):
            print(f"beside {count} busy processes")
            for aggregation in ("misa", "mima", "paired"):
                seconds = scores(pairs, aggregation)
                ratio = seconds["dense"] / seconds["fused"]
                values = f"dense {seconds['dense']:6.2f} s   fused {seconds['fused']:6.2f} s"
                print(f"  {aggregation:<8} {values}   {ratio:4.1f}x", flush=True)
            steps = training_steps(chosen_threads())
            values = "   ".join(f"{name} {value:.2f} s" for name, value in steps.items())
            *_, chosen = steps.values()
            print(
                f"  training step, threads {values}   fastest {chosen / min(steps.values()):.2f}x the chosen",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64)
