"""Scores of a batch, forward and backward, on a GPU in bf16: fused against dense under torch.compile.

`python tests/bench/bench_scores_gpu.py`: 2 heads of 192 channels, 14 x 14 cells, 56 steps. Time is the median of ten
runs after two; memory is the peak that torch allocates, with features and their gradients. Target on an H100 (issue 5):
at 512 pairs at least 4 times faster, 4,096 pairs in 40 GB.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from model.features import AudioFeatures, ImageFeatures
from model.similarity import dense, fused
from model.similarity.config import SimilarityConfig

RUNS = 10


def measure(score: Callable[..., torch.Tensor], aggregation: str, pairs: int) -> tuple[float, float]:
    """Milliseconds and GB; both inf when out of memory."""
    torch.manual_seed(0)
    audio = torch.randn(pairs, 2, 192, 56, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    image = torch.randn(pairs, 2, 192, 14, 14, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    mask = torch.ones(pairs, 56, dtype=torch.bool, device="cuda")
    features, config = (AudioFeatures(audio, mask), ImageFeatures(image)), SimilarityConfig(aggregation)
    torch.cuda.reset_peak_memory_stats()
    times = []
    try:
        for _ in range(2 + RUNS):
            started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            started.record()
            torch.autograd.grad(score(*features, config).float().logsumexp(dim=1).sum(), (audio, image))
            ended.record()
            torch.cuda.synchronize()
            times.append(started.elapsed_time(ended))
    except torch.cuda.OutOfMemoryError:
        return float("inf"), float("inf")
    return statistics.median(times[2:]), torch.cuda.max_memory_allocated() / 1e9


def main() -> None:
    """Print the table."""
    if not torch.cuda.is_available():
        print("bench_scores_gpu.py needs a GPU")
        return
    compiled = torch.compile(dense.pairwise_similarity, dynamic=False)
    print(torch.cuda.get_device_name())
    print(f"{'pairs':>5} {'aggregation':<11} {'dense':>10} {'fused':>10} {'faster':>7}   {'dense':>8} {'fused':>8}")
    for pairs, aggregation in ((512, "misa"), (512, "mima"), (512, "paired"), (4096, "misa"), (4096, "paired")):
        dense_ms, dense_gb = measure(compiled, aggregation, pairs) if pairs <= 512 else (float("inf"), float("inf"))
        torch.cuda.empty_cache()
        fused_ms, fused_gb = measure(fused.pairwise_similarity, aggregation, pairs)
        torch.cuda.empty_cache()
        speed = f"{dense_ms:7.1f} ms {fused_ms:7.1f} ms {dense_ms / fused_ms:6.1f}x"
        print(f"{pairs:>5} {aggregation:<11} {speed}   {dense_gb:5.1f} GB {fused_gb:5.1f} GB", flush=True)


if __name__ == "__main__":
    main()
