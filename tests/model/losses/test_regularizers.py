import itertools

import pytest
import torch

from model.losses import regularizers

B, K, C, H, W, T = 4, 2, 5, 3, 2, 6


def _features():
    return torch.randn(B, K, C, T, dtype=torch.float64), torch.randn(B, K, C, H, W, dtype=torch.float64)


def test_nonneg_pressure_agrees_with_a_slow_loop():
    steps, cells = torch.randn(7, K, C, dtype=torch.float64), torch.randn(9, K, C, dtype=torch.float64)
    expected = sum(
        min(0.0, (steps[n, k] * cells[m, k]).sum().item()) ** 2
        for n, m, k in itertools.product(range(7), range(9), range(K))
    )
    assert regularizers.nonneg_pressure(steps, cells).value.item() == pytest.approx(expected / (7 * 9 * K))


def test_silence_compares_steps_with_every_cell_of_every_image():
    _, image = _features()
    steps = torch.randn(3, K, C, dtype=torch.float64)
    expected = [
        abs((steps[n, k] * image[v, k, :, h, w]).sum().item())
        for n, v, k, h, w in itertools.product(*map(range, (3, B, K, H, W)))
    ]
    assert regularizers.silence(steps, image).value.item() == pytest.approx(sum(expected) / len(expected))
    assert regularizers.silence(steps[:0], image).value == 0


def test_terms_of_the_paired_volume_worked_out_by_hand():
    # One pair, two heads, two cells, two steps.
    volume = torch.tensor([[[1.0, 2.0], [0.0, -1.0]], [[3.0, 0.0], [2.0, 2.0]]]).view(1, 2, 1, 2, 2)
    valid = torch.tensor([[True, True]])
    assert regularizers.tv(volume).value.item() == pytest.approx((1 + 1 + 9 + 0) / 4)
    assert regularizers.head_specialization(volume).value.item() == pytest.approx((3 + 0 + 0 + 2) / 4)
    # Half of step 1 is spliced: its four squares are 4, 1, 0, 4.
    assert regularizers.negative_audio(volume, valid, torch.tensor([[1.0, 0.5]])).value.item() == pytest.approx(9 / 4)
    # A masked-out step does not count, spliced or not.
    half_valid = torch.tensor([[True, False]])
    assert regularizers.negative_audio(volume, half_valid, torch.tensor([[0.0, 0.0]])).value.item() == pytest.approx(
        (1 + 0 + 9 + 4) / 4
    )
    # Cell 0 is all another's (m = 1), cell 1 half (m^2 = 1/4): squares 1 + 4 + 9 + 0 and 0 + 1 + 4 + 4.
    assert regularizers.image_mixup(volume, torch.tensor([[[0.0, 0.5]]])).value.item() == pytest.approx(
        (14 + 9 / 4) / (4 * 1 + 4 * 0.5)
    )
    # Source 0 owns head 0, so its pair presses on head 1, and the other way round.
    assert regularizers.disentangle(volume, torch.tensor([0])).value.item() == pytest.approx((9 + 0 + 4 + 4) / 4)
    assert regularizers.disentangle(volume, torch.tensor([1])).value.item() == pytest.approx((1 + 4 + 0 + 1) / 4)


def test_nothing_to_average_gives_zero_not_nan():
    volume, valid = torch.randn(2, 1, 2, 2, 3), torch.ones(2, 3, dtype=torch.bool)
    assert regularizers.negative_audio(volume, valid, torch.ones(2, 3)).value == 0
    assert regularizers.image_mixup(volume, torch.ones(2, 2, 2)).value == 0
    assert regularizers.head_specialization(volume).value == 0
    assert regularizers.tv(volume[..., :1]).value == 0


def test_the_calibration_floor_presses_below_one_only():
    assert regularizers.logit_scale_floor(torch.tensor(0.3)) == 0
    assert regularizers.logit_scale_floor(torch.tensor(-0.7)).item() == pytest.approx(0.49)


def test_four_heads_compare_in_six_pairs_and_split_into_halves():
    volume = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1, 1)
    assert regularizers.head_specialization(volume).value.item() == pytest.approx((2 + 3 + 4 + 6 + 8 + 12) / 6)
    assert regularizers.disentangle(volume, torch.tensor([0])).value.item() == pytest.approx((3 + 4) ** 2)


def test_a_mean_over_two_halves_is_the_sum_of_both_numerators_by_that_of_both_denominators():
    volume, weight = torch.randn(B, K, H, W, T), torch.rand(B, H, W)
    whole = regularizers.image_mixup(volume, weight)
    halves = [regularizers.image_mixup(volume[half], weight[half]) for half in (slice(0, 1), slice(1, None))]
    numerator, denominator = (sum(parts) for parts in zip(*halves, strict=True))
    assert torch.allclose(regularizers.safe_divide(numerator, denominator), whole.value)
