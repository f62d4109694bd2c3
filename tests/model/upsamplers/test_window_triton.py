"""Triton kernels of windowed upsamplers against plain torch, in separate processes: Triton reads TRITON_INTERPRET once.

`python tests/model/upsamplers/test_window_triton.py DEVICE CHECK ...` prints the outcome of checks as JSON, with
TRITON_INTERPRET=1 on `cpu`, 0 on `cuda`, or on `none`, where kernels are only compiled, without a GPU.
"""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

pytest.importorskip("triton")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests/support"))

if __name__ == "__main__":
    install_import_hook(["model"], "beartype.beartype")  # as in conftest.py
from triton_build import compiled, spilled_bytes

from model.upsamplers import window_torch
from model.upsamplers.window import Window, full_window, window_mix, window_scatter, window_scores

OPERATIONS = ("mix", "scores", "scatter")


def make_window(grid, size, cells):
    """Random cells; the last row and column of the source are used by no pixel."""
    parts = (torch.randint(0, max(g - 1, 1), (n, k)) for g, n, k in zip(grid, size, cells, strict=True))
    return full_window(*parts, grid)


def operands(operation, window, channels, groups, batch=2, dtypes=(torch.float32, torch.float32)):
    small, large = (batch, *window.source_size, channels), (batch, *window.size, channels)
    weights = (batch, *window.size, groups, window.cells)
    shapes = {"mix": (small, weights), "scores": (large, small), "scatter": (large, weights)}[operation]
    return [torch.randn(shape).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]


def move(device, *tensors):
    return [tensor.to(device) for tensor in tensors]


def difference(device, operation, window: Window, channels, groups=1, **options):
    """Largest difference of a kernel from a loop in torch in float64, relative to the largest number."""
    from model.upsamplers import window_triton

    both = operands(operation, window, channels, groups, **options)
    extra = (groups,) if operation == "scores" else ()
    exact = getattr(window_torch, operation)(*(one.double() for one in both), window, *extra)
    device = torch.device(device)
    found = getattr(window_triton, operation)(*move(device, *both), window.to(device), *extra)
    assert found.dtype == torch.promote_types(*(one.dtype for one in both)) and found.shape == exact.shape
    return ((found.cpu() - exact).abs().max() / exact.abs().max()).item()


def check_channels_and_groups(device):
    """Channels that fill no tile, fill one, and need several."""
    return max(
        difference(device, operation, make_window((4, 3), (3, 5), (2, 3)), channels, groups)
        for operation, (channels, groups) in itertools.product(OPERATIONS, ((1, 1), (66, 2), (70, 1), (16, 4)))
    )


def check_sizes_that_fill_no_tile(device):
    """More pixels in a row than a tile, more cells in a window than a block, one pixel, one cell."""
    windows = (((4, 3), (2, 70), (3, 7)), ((3, 3), (1, 1), (1, 1)), ((1, 1), (3, 2), (1, 2)))
    return max(
        difference(device, operation, make_window(*window), 66)
        for operation, window in itertools.product(OPERATIONS, windows)
    )


def check_half_precision(device):
    """Rounded once: half of the distance between two numbers of float16."""
    window, half, full = make_window((4, 3), (3, 5), (2, 3)), torch.float16, torch.float32
    rounded = max(difference(device, operation, window, 34, dtypes=(half, half)) for operation in OPERATIONS)
    mixed = max(
        difference(device, operation, window, 34, dtypes=dtypes)
        for operation, dtypes in itertools.product(OPERATIONS, ((half, full), (full, half)))
    )
    return max(rounded / 2**-11, mixed / 1e-5)


def check_double_precision(device):
    window = make_window((4, 3), (3, 5), (2, 3))
    return max(difference(device, name, window, 34, dtypes=(torch.float64,) * 2) for name in OPERATIONS)


def check_bfloat16(device):
    window = make_window((5, 6), (7, 9), (3, 3))
    return max(difference(device, operation, window, 34, dtypes=(torch.bfloat16,) * 2) for operation in OPERATIONS)


def check_gradients_on_the_gpu(device):
    """Through window_mix, window_scores and window_scatter, which choose the kernels on a CUDA device."""
    window, worst = make_window((14, 14), (56, 40), (7, 7)), 0.0
    functions = {"mix": window_mix, "scores": lambda a, b, w: window_scores(a, b, w, 2), "scatter": window_scatter}
    for operation, function in functions.items():
        outcomes, seed = [], torch.randn(1)
        both = operands(operation, window, 96, 2)
        for where, dtype in (("cpu", torch.float64), (device, torch.float32)):
            leaves = [one.to(where, dtype).requires_grad_() for one in both]
            out = function(*leaves, window)
            weight = torch.sin(torch.arange(out.numel(), dtype=dtype) + seed).view(out.shape).to(out)
            outcomes.append([out, *torch.autograd.grad((out * weight).sum(), leaves)])
        for exact, found in zip(*outcomes, strict=True):
            worst = max(worst, ((found.cpu() - exact).abs().max() / exact.abs().max()).item())
    return worst


def check_repeated_runs_are_identical(device):
    window, worst = make_window((14, 14), (56, 40), (7, 7)), 0.0
    for operation, function in (("mix", window_mix), ("scatter", window_scatter), ("scores", window_scores)):
        both = move(device, *operands(operation, window, 96, 1))
        worst += (function(*both, window) != function(*both, window)).sum().item()
    return worst


def check_published_size(device):
    """FeatUp's last stage: 112 x 112 to 224 x 224, 384 channels, bf16."""
    window = make_window((112, 112), (224, 224), (5, 5))
    return max(difference(device, name, window, 384, batch=1, dtypes=(torch.bfloat16,) * 2) for name in OPERATIONS)


def check_kernels_compile(_device):
    """For A100 and H100: spilled bytes and atomics."""
    from triton.language import float32

    from model.upsamplers import window_triton

    wide = {"TOTAL": float32, "PIXELS": 32, "CHANNELS": 64}
    tiles = {"mix": wide, "scatter": wide, "scores": {"TOTAL": float32, "PIXELS": 8, "CELLS": 16, "CHANNELS": 32}}
    faults = 0
    for capability, dtype, operation in ((80, "fp32", "mix"), *itertools.product((90,), ("fp32", "bf16"), OPERATIONS)):
        kernel = getattr(window_triton, f"_{operation}")
        types = {
            name: "*i64" if name.startswith(("row", "column")) else f"*{dtype}"
            for name in kernel.arg_names
            if name.endswith("_ptr")
        }
        done = compiled(kernel, types, capability, tiles[operation])
        faults += spilled_bytes(done) + len(re.findall(r"\b(?:atom|red)\.", done.asm["ptx"]))
    return faults


# Largest allowed outcome of each check.
CHECKS = {
    check_channels_and_groups: 1e-5,
    check_sizes_that_fill_no_tile: 1e-5,
    check_half_precision: 1,
    check_double_precision: 1e-13,
}
GPU_CHECKS = {
    check_bfloat16: 2**-8,
    check_gradients_on_the_gpu: 1e-5,
    check_repeated_runs_are_identical: 0,
    check_published_size: 2**-8,
}


def outcomes(device, checks, cache):
    """Outcome of each check by name, computed in one separate process."""
    settings = {"TRITON_INTERPRET": str(int(device == "cpu")), "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, __file__, device, *(check.__name__ for check in checks)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    return outcomes("cpu", CHECKS, tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory):
    return outcomes("cuda", CHECKS | GPU_CHECKS, tmp_path_factory.mktemp("triton"))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_interpreted_kernels_equal_torch(check, interpreted):
    assert interpreted[check.__name__] <= CHECKS[check]


def test_kernels_compile_without_a_gpu(tmp_path):
    assert outcomes("none", [check_kernels_compile], tmp_path)["check_kernels_compile"] == 0


@pytest.mark.gpu
@pytest.mark.parametrize("check", CHECKS | GPU_CHECKS, ids=lambda check: check.__name__)
def test_kernels_equal_torch_on_a_gpu(check, on_gpu):
    assert on_gpu[check.__name__] <= (CHECKS | GPU_CHECKS)[check]


def main(device, *names):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(json.dumps({name: globals()[name](device) for name in names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
