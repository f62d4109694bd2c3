"""The operator of windowed upsamplers: both implementations agree, and its operations are each other's gradients."""

import subprocess
import sys

import pytest
import torch
from paths import ROOT

from model.upsamplers import window_numba, window_torch
from model.upsamplers.window import (
    Window,
    centered_window,
    full_window,
    reflect,
    window_mix,
    window_scatter,
    window_scores,
)

GRID, SIZE = (5, 6), (9, 7)


def _window(rows: int = 3, columns: int = 4) -> Window:
    generator = torch.Generator().manual_seed(0)
    parts = (
        (torch.randint(0, g, (n, k), generator=generator)) for g, n, k in zip(GRID, SIZE, (rows, columns), strict=True)
    )
    return full_window(*parts, GRID)


def _operands(channels: int, groups: int, dtype: torch.dtype = torch.float64):
    """A source, weights, and values of the output's size."""
    generator = torch.Generator().manual_seed(1)
    shapes = (2, *GRID, channels), (2, *SIZE, groups, 12), (2, *SIZE, channels)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (8, 2), (35, 1), (128, 4), (66, 2)])
def test_the_compiled_pass_equals_the_loop_in_torch(channels, groups):
    source, weights, values = _operands(channels, groups)
    window = _window()
    for operation, operands in (
        ("mix", (source, weights, window)),
        ("scatter", (values, weights, window)),
        ("scores", (values, source, window, groups)),
    ):
        expected, found = (getattr(module, operation)(*operands) for module in (window_torch, window_numba))
        assert torch.allclose(found, expected, atol=1e-12), operation


def test_mixing_equals_a_slow_loop():
    source, weights, _ = _operands(6, 2)
    window = _window()
    mixed = window_mix(source, weights, window)
    for y, x, channel in ((0, 0, 0), (8, 6, 5), (4, 3, 2)):
        cells = [
            weights[1, y, x, channel // 3, i * 4 + j] * source[1, window.rows[y, i], window.columns[x, j], channel]
            for i in range(3)
            for j in range(4)
        ]
        assert torch.isclose(mixed[1, y, x, channel], sum(cells))


def test_first_and_second_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    window = full_window(torch.tensor([[0, 1], [2, 2], [1, 0]]), torch.tensor([[1, 0], [2, 1]]), (3, 3))
    shapes = (1, 3, 3, 4), (1, 3, 2, 2, 4), (1, 3, 2, 4)
    source, weights, values = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    for function, operands in (
        (lambda a, b: window_mix(a, b, window), (source, weights)),
        (lambda a, b: window_scatter(a, b, window), (values, weights)),
        (lambda a, b: window_scores(a, b, window, 2), (values, source)),
    ):
        assert torch.autograd.gradcheck(function, operands)
        assert torch.autograd.gradgradcheck(function, operands)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    source, weights, _ = (one.to(dtype) for one in _operands(8, 2))
    source = 300 * source
    mixed = window_mix(source, weights, _window())
    assert mixed.dtype == dtype
    expected = window_mix(source.float(), weights.float(), _window())
    assert torch.allclose(mixed.float(), expected, rtol=2 * torch.finfo(dtype).eps)


def test_padding_has_no_weight_and_reflection_is_that_of_torch():
    window = centered_window((5, 4), 3, reflect)
    padded = torch.nn.functional.pad(torch.arange(20.0).view(1, 1, 5, 4), [3] * 4, mode="reflect")[0, 0]
    assert torch.equal(window.rows[0] * 4.0, padded[:7, 3]) and torch.equal(window.columns[3].float(), padded[3, 3:10])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, w: (s[:, :4], w), r"do not fit a window of 12 cells from \(5, 6\) to \(9, 7\)"),
        (lambda s, w: (s[..., :7], w), "7 channels cannot be divided into 2 groups"),
    ],
)
def test_operands_that_do_not_fit_are_refused(change, message):
    source, weights, _ = _operands(8, 2)
    with pytest.raises(ValueError, match=message):
        window_mix(*change(source, weights), _window())


def test_a_grid_smaller_than_the_window_is_refused():
    with pytest.raises(ValueError, match="a grid of 3 cells is too small for a window that reaches 3 cells out"):
        centered_window((3, 9), 3, reflect)


def test_the_number_of_threads_of_torch_stays():
    code = (
        "import torch\n"
        "from model.upsamplers.window import centered_window, reflect, window_mix\n"
        "torch.set_num_threads(1)\n"
        "window_mix(torch.ones(1, 8, 8, 4), torch.ones(1, 8, 8, 1, 9), centered_window((8, 8), 1, reflect))\n"
        "print(torch.get_num_threads())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout == "1\n", done.stderr
