"""Scores of a batch, forward and backward, on a CPU: fused against dense. `python tests/bench/bench_scores.py`

64 pairs, 2 heads of 192 channels, 14 x 14 cells, 56 steps, fp32. Each measurement runs in a separate process on two
threads. Time is the best of five runs; memory is the increase of the peak of the process in the first run, without the
gradients. Target (issue 5): at least 4 times faster and 20 times less memory. Not reachable: `sisa` with
`max_elementwise` needs four products where dense needs three, and `paired` with `sum` has 2 million arg-max positions
with gradient.
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
    """Seconds and MB of `dense` or `fused`."""
    import torch

    from model.features import AudioFeatures, ImageFeatures
    from model.similarity import dense, fused
    from model.similarity.config import SimilarityConfig

    torch.set_num_threads(2)
    score = {"dense": dense, "fused": fused}[form].pairwise_similarity

    def step(pairs: int, channels: int, side: int, steps: int) -> tuple[float, float]:
        torch.manual_seed(0)
        audio = torch.randn(pairs, HEADS, channels, steps, requires_grad=True)
        image = torch.randn(pairs, HEADS, channels, side, side, requires_grad=True)
        features = AudioFeatures(audio, torch.ones(pairs, steps, dtype=torch.bool)), ImageFeatures(image)
        peak_before, started = _peak_mb(), time.perf_counter()
        loss = score(*features, SimilarityConfig(aggregation, head_aggregation)).logsumexp(dim=1).sum()
        gradients = torch.autograd.grad(loss, (audio, image))
        return time.perf_counter() - started, _peak_mb() - peak_before - sum(g.nbytes for g in gradients) / 2**20

    step(4, 8, 4, 8)
    runs = [step(PAIRS, CHANNELS, SIDE, STEPS) for _ in range(RUNS)]
    return min(seconds for seconds, _ in runs), runs[0][1]


def main() -> None:
    """Print the table."""
    if os.getloadavg()[0] > 0.5:
        print("other processes are running: see bench_busy.py")
    times = f"{'dense':>8} {'fused':>8} {'faster':>7}   {'dense':>8} {'fused':>8} {'less memory':>11}"
    print(f"{'aggregation':<11} {'over heads':<15} {times}")
    for aggregation, heads in FORMS:
        (dense_s, dense_mb), (fused_s, fused_mb) = (
            _in_new_process(form, aggregation, heads) for form in ("dense", "fused")
        )
        speed = f"{1000 * dense_s:5.0f} ms {1000 * fused_s:5.0f} ms {dense_s / fused_s:6.1f}x"
        memory = f"{dense_mb:5.0f} MB {fused_mb:5.1f} MB {dense_mb / max(fused_mb, 0.1):10.1f}x"
        print(f"{aggregation:<11} {heads:<15} {speed}   {memory}", flush=True)


def _in_new_process(*form: str) -> tuple[float, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *form).result()


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
