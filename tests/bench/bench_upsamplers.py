"""Upsamplers on a CPU against the published forms, forward, fp32: `python tests/bench/bench_upsamplers.py [rows]`

jbu      FeatUp's stack, 384 channels, 14 x 14 to 224 x 224. Published: keys and features unfolded to 49 copies, final
         mix on 224 x 224. Target: 10 times faster, a tenth of the memory.
kept     Kept weights of the stack. Target: a heatmap of K = 2 in 1/20 of the time of 384 channels, a volume of K = 2
         and T = 56 in 0.4 of it.
anyup    AnyUp, 384 channels, 28 x 28 to 224 x 224. Published: attention over all cells with a mask. Target: an eighth
         of the memory.

Each measurement runs in a new process on two threads. Time is the best of several runs; memory is the peak of the
resident set in the first run, above what the process held before it: inputs and parameters are not counted, the output
is. A small run before it loads libraries and compiled code.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

if TYPE_CHECKING:
    from torch import Tensor

    from model.upsamplers.anyup import AnyUp
    from model.upsamplers.jbu import Jbu, JbuStage

CHANNELS, SIZE = 384, 224
MAPS = {"K = 2": 2, "K = 2, T = 56": 112, "features": CHANNELS}


def published_jbu(jbu: Jbu, features: Tensor, guidance: Tensor) -> Tensor:
    """The stack with everything unfolded."""
    from torch.nn import functional

    assert jbu.fixup_proj is not None
    for stage in jbu.stages:
        size = [2 * n for n in features.shape[2:]]
        features = _published_stage(stage, features, functional.adaptive_avg_pool2d(guidance, size))
    return features + 0.1 * jbu.fixup_proj(features)


def _published_stage(stage: JbuStage, source: Tensor, guidance: Tensor) -> Tensor:
    import torch
    from torch.nn import functional

    height, width = guidance.shape[2:]

    def unfold(maps: Tensor) -> Tensor:
        padded = functional.pad(maps, [stage.radius] * 4, mode="reflect")
        return functional.unfold(padded, 2 * stage.radius + 1).view(*maps.shape[:2], -1, height, width)

    keys = stage.range_proj(guidance)
    similar = (stage.range_temp.exp() * torch.einsum("bcnhw,bchw->bnhw", unfold(keys), keys)).softmax(dim=1)
    kernel = similar * stage.spatial_kernel()[:, None, None]
    kernel = kernel / kernel.sum(dim=1, keepdim=True).clamp(min=1e-7)
    kernel = kernel + 0.1 * stage.fixup_proj(torch.cat([kernel, guidance], dim=1))
    resized = functional.interpolate(source, (height, width), mode="bicubic")
    return unfold(resized).mul_(kernel[:, None]).sum(dim=2)


def published_anyup(model: AnyUp, features: Tensor, guidance: Tensor, size: int) -> Tensor:
    """AnyUp with weights over all cells, those outside the window masked."""
    import torch
    from torch.nn import functional

    grid = (features.shape[2], features.shape[3])
    encoded = model.rope(model.image_encoder(guidance))
    queries = model.query_conv(functional.adaptive_avg_pool2d(model.query_encoder(encoded), size))
    keys = functional.adaptive_avg_pool2d(model.key_encoder(encoded), grid)
    keys = model.aggregation(torch.cat([keys, model.unification(features)], dim=1))
    query, key = (
        part.flatten(1, 2).unflatten(2, (4, -1)).transpose(1, 2) for part in model.attention.project(queries, keys)
    )
    hidden = torch.ones(size, size, *grid, dtype=torch.bool)
    for y, (first_row, end_row) in enumerate(_visible(size, grid[0], model.window_ratio)):
        for x, (first_column, end_column) in enumerate(_visible(size, grid[1], model.window_ratio)):
            hidden[y, x, first_row:end_row, first_column:end_column] = False
    hidden = hidden.flatten(2).flatten(0, 1)
    weights = (query @ key.transpose(2, 3)).masked_fill(hidden, -torch.inf).softmax(dim=-1).mean(dim=1)
    return (weights @ features.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (size, size))


def _visible(pixels: int, cells: int, ratio: float) -> list[tuple[int, int]]:
    """First and end of the cells that each pixel of a row or column sees."""
    centers = [(pixel + 0.5) / pixels for pixel in range(pixels)]
    return [(int(max(c - ratio, 0) * cells), math.ceil(min(c + ratio, 1) * cells)) for c in centers]


def run_jbu(form: str, grid: int, channels: int) -> Callable[[], Tensor]:
    """The stack, from features and image to features."""
    import torch

    from model.upsamplers.jbu import Jbu

    jbu = Jbu(channels).eval()
    features, guidance = torch.randn(1, channels, grid, grid), torch.randn(1, 3, 16 * grid, 16 * grid)
    return lambda: published_jbu(jbu, features, guidance) if form == "published" else jbu(features, guidance)


def run_anyup(form: str, grid: int, channels: int) -> Callable[[], Tensor]:
    """AnyUp, from features and image to features."""
    import torch

    from model.upsamplers.anyup import AnyUp

    model, size = AnyUp(published_order=True).eval(), 8 * grid
    features, guidance = torch.randn(1, channels, grid, grid), torch.randn(1, 3, size, size)
    if form == "published":
        return lambda: published_anyup(model, features, guidance, size)
    return lambda: model.guided_weights(guidance, features, (size, size)).apply(features)


def run_kept(form: str, grid: int, _channels: int) -> Callable[[], Tensor]:
    """Kept weights of the stack, applied to maps."""
    import torch

    from model.upsamplers.jbu import Jbu

    maps = torch.randn(1, MAPS[form], grid, grid)
    weights = Jbu().eval().guided_weights(torch.randn(1, 3, 16 * grid, 16 * grid), (grid, grid))
    return lambda: weights.apply(maps)


ROWS = {"jbu": (run_jbu, 14), "kept": (run_kept, 14), "anyup": (run_anyup, 28)}


def measure(row: str, form: str, runs: int) -> tuple[float, float, Tensor]:
    """Seconds, MB, and a few numbers of the output, in which both forms agree."""
    import torch

    torch.set_num_threads(2)
    make, grid = ROWS[row]
    with torch.inference_mode():
        make(form, 4, 8)()
        torch.manual_seed(0)
        run = make(form, grid, CHANNELS)
        held_mb, seconds, peak_mb = _reset_peak_mb(), [], 0.0
        for _ in range(runs):
            began_s = time.perf_counter()
            out = run()
            seconds.append(time.perf_counter() - began_s)
            peak_mb = peak_mb or _status_mb("VmHWM") - held_mb
    return min(seconds), peak_mb, out[:, ::7, ::31, ::31].clone()


def _reset_peak_mb() -> float:
    """Set the peak of the resident set to the present resident set, and return it."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def _in_new_process(row: str, form: str, runs: int) -> tuple[float, float, Tensor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, row, form, runs).result()


def compare(row: str) -> None:
    """Print one row: both forms."""
    (published_s, published_mb, expected), (ours_s, ours_mb, found) = (
        _in_new_process(row, form, runs) for form, runs in (("published", 1), ("ours", 7))
    )
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    speed = f"{published_s:6.2f} s {ours_s:6.3f} s {published_s / ours_s:6.1f}x"
    memory = f"{published_mb:6.0f} MB {ours_mb:5.0f} MB {published_mb / ours_mb:6.1f}x"
    print(f"{row:<14} {speed}   {memory}   difference {difference:.0e}", flush=True)


def compare_kept() -> None:
    """Print one row for each number of maps."""
    times = {form: _in_new_process("kept", form, 40)[0] for form in MAPS}
    for form, seconds in times.items():
        print(f"kept, {form:<14} {1000 * seconds:7.1f} ms   {seconds / times['features']:.3f} of features", flush=True)


def main(rows: list[str]) -> None:
    """Print the table."""
    print(f"load of other programs: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")
    print(f"{'':<14} {'published':>8} {'ours':>8} {'faster':>7}   {'published':>9} {'ours':>8} {'less':>7}")
    for row in rows or ROWS:
        if row == "kept":
            compare_kept()
        else:
            compare(row)


if __name__ == "__main__":
    main(sys.argv[1:])
