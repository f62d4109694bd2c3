"""Scores of a batch, forward and backward: the fused form against the plain one that holds the volume. `python tests/bench/bench_scores.py`

64 pairs, 2 heads of 192 channels, 14 x 14 cells, 56 steps, fp32. Each measurement has a process of its own on two threads. Time is the best of five runs;
memory is the rise of the process's peak in the first run, less the size of the gradients that come out. Wanted (issue 5): at least 4 times faster and 20
times less memory. Out of reach: `sisa` with `max_elementwise` needs four of the products of which the plain form takes three, `paired` with `sum` has its
gradient flow through 2 million winners.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PAIRS, HEADS, CHANNELS, SIDE, STEPS = 64, 2, 192, 14, 56
FORMS = [
    (aggregation, heads) for heads in ("max_elementwise", "sum") for aggregation in ("misa", "mima", "paired", "sisa")
]
RUNS = 5


def measure(form: str, aggregation: str, head_aggregation: str) -> tuple[float, float]:
    """Seconds and MB of one form."""
    import torch

    from model.similarity import dense, fused

    torch.set_num_threads(2)
    score = {"plain": dense, "fused": fused}[form].pairwise_similarity

    def step(pairs: int, channels: int, side: int, steps: int) -> tuple[float, float]:
        torch.manual_seed(0)
        audio = torch.randn(pairs, HEADS, channels, steps, requires_grad=True)
        image = torch.randn(pairs, HEADS, channels, side, side, requires_grad=True)
        mask = torch.ones(pairs, steps, dtype=torch.bool)
        held, started = _peak_mb(), time.perf_counter()
        loss = score(audio, image, mask, aggregation, head_aggregation).logsumexp(dim=1).sum()
        gradients = torch.autograd.grad(loss, (audio, image))
        return time.perf_counter() - started, _peak_mb() - held - sum(g.nbytes for g in gradients) / 2**20

    step(4, 8, 4, 8)
    runs = [step(PAIRS, CHANNELS, SIDE, STEPS) for _ in range(RUNS)]
    return min(seconds for seconds, _ in runs), runs[0][1]


def main() -> None:
    """Print the table."""
    if os.getloadavg()[0] > 0.5:
        print(
            "other processes are running: the fused form, of many short parallel parts, waits for cores more often than the plain one"
        )
    print(
        f"{'aggregation':<11} {'over heads':<15} {'plain':>8} {'fused':>8} {'faster':>7}   {'plain':>8} {'fused':>8} {'less memory':>11}"
    )
    for aggregation, heads in FORMS:
        (plain_s, plain_mb), (fused_s, fused_mb) = (
            _in_new_process(form, aggregation, heads) for form in ("plain", "fused")
        )
        speed = f"{1000 * plain_s:5.0f} ms {1000 * fused_s:5.0f} ms {plain_s / fused_s:6.1f}x"
        print(
            f"{aggregation:<11} {heads:<15} {speed}   {plain_mb:5.0f} MB {fused_mb:5.1f} MB {plain_mb / max(fused_mb, 0.1):10.1f}x",
            flush=True,
        )


def _in_new_process(*form: str) -> tuple[float, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *form).result()


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
