"""Scores of a batch, forward and backward: the fused form against the plain one that holds the volume. `python tests/bench/bench_scores.py`

Each measurement has a process of its own on two threads. Time is the best of three runs; memory is the rise of the process's peak in the first run,
less the size of the gradients that come out. Wanted (issue 5): at least 4 times faster and 20 times less memory at the published size.
"""

from __future__ import annotations

import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# name: pairs, heads, channels of a head, grid side, audio steps
SIZES = {"published, B=64": (64, 2, 192, 14, 56), "toy, B=48": (48, 2, 64, 12, 30)}
AGGREGATIONS = ("misa", "mima", "paired", "sisa")
RUNS = 3


def measure(form: str, aggregation: str, size: tuple[int, ...]) -> tuple[float, float]:
    """Seconds and MB of one form at one size."""
    import torch

    from model.grounding import fused, similarity

    torch.set_num_threads(2)
    score = {"plain": similarity, "fused": fused}[form].all_pairs_scores
    head_aggregation = "sum" if aggregation == "sisa" else "max_elementwise"

    def step(pairs: int, channels: int, side: int, steps: int) -> tuple[float, float]:
        torch.manual_seed(0)
        audio = torch.randn(pairs, size[1], channels, steps, requires_grad=True)
        image = torch.randn(pairs, size[1], channels, side, side, requires_grad=True)
        mask = torch.ones(pairs, steps, dtype=torch.bool)
        held, started = _peak_mb(), time.perf_counter()
        loss = score(audio, image, mask, aggregation, head_aggregation).logsumexp(dim=1).sum()
        gradients = torch.autograd.grad(loss, (audio, image))
        return time.perf_counter() - started, _peak_mb() - held - sum(g.nbytes for g in gradients) / 2**20

    step(4, 8, 4, 8)
    pairs, _, channels, side, steps = size
    first_s, peak_mb = step(pairs, channels, side, steps)
    return min([first_s, *(step(pairs, channels, side, steps)[0] for _ in range(RUNS - 1))]), peak_mb


def main() -> None:
    """Print the table."""
    print(f"{'size':<17} {'aggregation':<11} {'plain':>8} {'fused':>8} {'faster':>7}   {'plain':>8} {'fused':>8} {'less memory':>11}")
    for name, size in SIZES.items():
        for aggregation in AGGREGATIONS:
            (plain_s, plain_mb), (fused_s, fused_mb) = (_in_new_process(form, aggregation, size) for form in ("plain", "fused"))
            speed = f"{1000 * plain_s:5.0f} ms {1000 * fused_s:5.0f} ms {plain_s / fused_s:6.1f}x"
            print(f"{name:<17} {aggregation:<11} {speed}   {plain_mb:5.0f} MB {fused_mb:5.1f} MB {plain_mb / max(fused_mb, 0.1):10.1f}x", flush=True)


def _in_new_process(form: str, aggregation: str, size: tuple[int, ...]) -> tuple[float, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, form, aggregation, size).result()


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
