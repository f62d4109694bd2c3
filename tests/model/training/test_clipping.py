"""Gradient clipping agrees with a slow loop, and outliers do not enter its means."""

import pytest
import torch

from model.training.clipping import MIN_HISTORY, MIN_MEAN_NORM, GradientClipper


def _parameters(*sizes):
    return [torch.nn.Parameter(torch.zeros(size)) for size in sizes]


def _clip(clipping, gradients):
    for parameter, gradient in zip(clipping.parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    return clipping.clip()


def _norms(clipping):
    return [float(p.grad.norm()) for p in clipping.parameters]


def test_each_gradient_is_clipped_by_its_own_norm():
    clipping = GradientClipper(_parameters(2, 2, 2), max_norm=2.0)
    norm = _clip(clipping, [torch.tensor([3.0, 4.0]), torch.tensor([0.6, 0.8]), None])
    assert norm == pytest.approx((25 + 1) ** 0.5)
    a, b, c = clipping.parameters
    torch.testing.assert_close(a.grad, torch.tensor([1.2, 1.6]))
    torch.testing.assert_close(b.grad, torch.tensor([0.6, 0.8]))
    assert c.grad is None


def test_norm_without_parameters_or_gradients_is_zero():
    assert GradientClipper([], 10.0, 5.0).clip() == 0
    assert GradientClipper(_parameters(2), 10.0, 5.0).clip() == 0


def _slow(history, norm, max_norm, factor, window):
    """The limit of one norm from the list of earlier norms, to which it is appended."""
    by_mean = (
        factor * max(sum(history[-window:]) / len(history[-window:]), MIN_MEAN_NORM)
        if len(history) >= MIN_HISTORY
        else float("inf")
    )
    if 0 < norm < float("inf"):
        history.append(min(norm, by_mean))
    return min(max_norm, by_mean)


def test_adaptive_limits_agree_with_a_slow_loop():
    generator = torch.Generator().manual_seed(1)
    clipping = GradientClipper(_parameters(3, 5, 1), max_norm=10.0, factor=5.0, window=20)
    histories = [[], [], []]
    clipped = 0
    for number in range(80):
        gradients = [
            torch.randn(p.shape, generator=generator) * 10 ** float(torch.randn((), generator=generator))
            for p in clipping.parameters
        ]
        if number % 7 == 3:
            gradients[number % 3] = None
        if number % 11 == 5:
            gradients[0] = torch.zeros(3)
        _clip(clipping, gradients)
        for history, gradient, parameter in zip(histories, gradients, clipping.parameters, strict=True):
            if gradient is not None:
                limit = _slow(history, float(gradient.norm()), 10.0, 5.0, 20)
                assert float(parameter.grad.norm()) == pytest.approx(
                    min(float(gradient.norm()), limit), rel=1e-4, abs=1e-12
                )
                clipped += limit < float(gradient.norm())
    assert clipped > 10


def test_first_steps_are_clipped_to_the_fixed_norm_only():
    clipping = GradientClipper(_parameters(1), 10.0, 5.0, 50)
    for _ in range(MIN_HISTORY - 1):
        _clip(clipping, [torch.tensor([0.01])])
    _clip(clipping, [torch.tensor([8.0])])
    assert _norms(clipping) == [8.0]
    _clip(clipping, [torch.tensor([8.0])])
    assert _norms(clipping) == [pytest.approx(5 * (9 * 0.01 + 8) / 10)]


def test_without_a_factor_only_the_fixed_norm_clips():
    clipping = GradientClipper(_parameters(1), max_norm=2.0)
    for _ in range(2 * MIN_HISTORY):
        _clip(clipping, [torch.tensor([0.01])])
    for norm, clipped in ((1.0, 1.0), (8.0, 2.0)):
        _clip(clipping, [torch.tensor([norm])])
        assert _norms(clipping) == [pytest.approx(clipped)]


def test_outlier_is_clipped_and_moves_the_mean_by_less_than_a_tenth():
    clipping = GradientClipper(_parameters(1), 10.0, 5.0, 50)
    for _ in range(60):
        _clip(clipping, [torch.tensor([1.0])])
    for _ in range(2):
        _clip(clipping, [torch.tensor([1e6])])
    assert _norms(clipping) == [pytest.approx(5 * (49 + 5) / 50)]


@pytest.mark.parametrize("broken", [float("inf"), float("nan"), 0.0])
def test_zero_nan_and_infinite_norms_do_not_enter_the_mean(broken):
    clipping = GradientClipper(_parameters(1, 1), 10.0, 5.0, 50)
    for _ in range(20):
        _clip(clipping, [torch.tensor([1.0]), torch.tensor([broken])])
    before = {name: value.clone() for name, value in clipping.state().items()}
    _clip(clipping, [torch.tensor([broken]), torch.tensor([2.0])])
    assert torch.equal(clipping.counts, torch.tensor([20, 1]))
    assert torch.equal(clipping.norms[:, 0], before["norms"][:, 0])
    assert _norms(clipping)[1] == 2.0  # the first one
    _clip(clipping, [torch.tensor([100.0]), torch.tensor([2.0])])
    assert _norms(clipping) == [pytest.approx(5.0), 2.0]


def test_parameter_with_almost_zero_gradients_can_start_to_learn():
    clipping = GradientClipper(_parameters(1), 10.0, 5.0, 50)
    for _ in range(50):
        _clip(clipping, [torch.tensor([1e-12])])
    for norm, clipped in ((4e-5, 4e-5), (1.0, 5 * MIN_MEAN_NORM)):
        _clip(clipping, [torch.tensor([norm])])
        assert _norms(clipping) == [pytest.approx(clipped)]
    for _ in range(500):
        _clip(clipping, [torch.tensor([1.0])])
    assert _norms(clipping) == [1.0]


def test_restored_norms_clip_bit_identically():
    generator = torch.Generator().manual_seed(2)
    one, other = (GradientClipper(_parameters(4, 4), 100.0, 1.0, 12) for _ in range(2))
    for _ in range(17):
        _clip(one, [torch.randn(4, generator=generator) * 3 for _ in range(2)])
    other.load(one.state())
    clipped = 0
    for _ in range(30):
        gradients = [torch.randn(4, generator=generator) * 3 for _ in range(2)]
        assert torch.equal(_clip(one, gradients), _clip(other, gradients))
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(one.parameters, other.parameters, strict=True))
        clipped += sum(norm < float(gradient.norm()) for norm, gradient in zip(_norms(one), gradients, strict=True))
    assert clipped > 10
