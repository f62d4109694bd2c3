"""Evaluation at its full size on two threads. `python tests/bench/bench_eval.py`

Metrics of prompted segmentation, 5,000 prompts of 150 classes at 224 px, given the maps: mAP, mIoU both ways,
intervals. Target (issue 7): under 60 s.

Dense retrieval: scores of 200 sounds against 200 images, 28 x 28 cells, 56 steps, 2 heads of 192 channels, compared
with four images at a time and the volume in memory, by `amax`, and by dense.py, whose maximum also finds the index.
Target: 4 times faster. Not possible in float32: `products` is the time of the matrix products alone, more than a
quarter of the time with the volume (model/similarity/fused/inference_cpu.py). Processor time is that of all threads.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PROMPTS, CLASSES, SIDE_PX, GRID = 5_000, 150, 224, 28
PAIRS, HEADS, CHANNELS, STEPS, AT_ONCE, THREADS = 200, 2, 192, 56, 4, 2


def metrics() -> None:
    """Seconds and memory of the metrics of one variant."""
    import numpy as np
    import torch

    from eval.benchmarks.prompted_ade20k.metrics import measure

    generator = torch.Generator().manual_seed(0)
    place = torch.rand(PROMPTS, 2, generator=generator) * 0.8 + 0.1
    at = (torch.arange(SIDE_PX) + 0.5) / SIDE_PX
    packed = np.stack([np.packbits(((at[:, None] - y).abs() < 0.12) & ((at - x).abs() < 0.12)) for y, x in place])
    cell = (torch.arange(GRID) + 0.5) / GRID
    far = (cell[:, None] - place[:, 0, None, None]) ** 2 + (cell - place[:, 1, None, None]) ** 2
    maps = torch.exp(-far / 0.02) + 0.5 * torch.rand(PROMPTS, GRID, GRID, generator=generator)
    asked = torch.randint(CLASSES, (PROMPTS,), generator=generator)
    held_mb, started_s, cpu_s = _peak_mb(), time.perf_counter(), time.process_time()
    found, _ = measure({"basic": maps}, packed, asked, [f"p{n}" for n in range(PROMPTS)], str, SIDE_PX, seed=0)
    seconds = time.perf_counter() - started_s
    print(
        f"metrics of {PROMPTS:,} prompts: {seconds:.1f} s ({time.process_time() - cpu_s:.1f} s CPU), "
        f"{_peak_mb() - held_mb:.0f} MB",
        flush=True,
    )
    for key, value in found.metrics.items():
        print(f"    {key:<30} {value:.4f}  [{found.intervals[key][0]:.4f}, {found.intervals[key][1]:.4f}]")


def retrieval() -> None:
    """Seconds of each way, and the largest difference between their scores."""
    import torch

    from model.similarity import dense, fused
    from model.similarity.fused import inference_cpu

    torch.manual_seed(0)
    audio, image = torch.randn(PAIRS, HEADS, CHANNELS, STEPS), torch.randn(PAIRS, HEADS, CHANNELS, GRID, GRID)
    mask = torch.rand(PAIRS, STEPS) < 0.9

    def volume() -> torch.Tensor:
        parts = [torch.einsum("akct,vkchw->avkhwt", audio, some).amax(dim=(3, 4)) for some in image.split(AT_ONCE)]
        return torch.cat([dense.masked_mean(part, mask) for part in parts], dim=1)

    def plain() -> torch.Tensor:
        return torch.cat([dense.similarity_per_head(audio, some, mask) for some in image.split(AT_ONCE)], dim=1)

    def products() -> None:
        steps, cells = audio[:, 0].transpose(1, 2).flatten(0, 1).contiguous(), image[0, 0].flatten(1)
        rows = inference_cpu.TILE_NUMBERS // GRID**2
        tile = torch.empty(rows, GRID**2)
        torch.set_num_threads(1)
        for _ in range(PAIRS * HEADS // THREADS):
            for row in range(0, len(steps) - rows, rows):
                torch.mm(steps[row : row + rows], cells, out=tile)
        torch.set_num_threads(THREADS)

    ways = {
        "volume": volume,
        "dense.py": plain,
        "fused": lambda: fused.similarity_per_head(audio, image, mask),
        "products": products,
    }
    found = {}
    print(
        f"\n{PAIRS} x {PAIRS} dense scores, {THREADS} threads"
        + f"{'seconds':>16}{'processor':>11}{'faster than the volume':>24}{'difference':>12}"
    )
    with torch.inference_mode():
        fused.similarity_per_head(audio[:8], image[:8], mask[:8])
        for name, way in ways.items():
            started_s, cpu_s = time.perf_counter(), time.process_time()
            scores = way()
            found[name] = (
                time.perf_counter() - started_s,
                (time.process_time() - cpu_s) * (THREADS if name == "products" else 1),
                scores,
            )
            first, second, wanted = found["volume"]
            apart = "" if scores is None else f"{(scores - wanted).abs().max():12.1e}"
            print(
                f"{name:<38}{found[name][0]:8.1f}{found[name][1]:11.1f}"
                f"{first / found[name][0]:15.1f}x{second / found[name][1]:7.1f}x{apart}",
                flush=True,
            )


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    import torch

    torch.set_num_threads(THREADS)
    metrics()
    retrieval()
