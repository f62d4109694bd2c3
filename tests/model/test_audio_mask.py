"""Which audio steps are valid, from which samples are."""

import pytest
import torch

from model.audio_mask import downsample_mask, downsample_weight


def test_a_weight_is_interpolated_at_the_center_of_each_step():
    weight = torch.tensor([[0.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.2, 0.4]])
    # Eight samples into two steps: centers at 1.5 and 5.5, half-way between samples 1, 2 and 5, 6.
    assert torch.allclose(downsample_weight(weight, 2), torch.tensor([[1.0, 0.1]]))


def test_a_step_is_valid_where_more_than_a_hundredth_of_it_is():
    mask = torch.zeros(2, 160, dtype=torch.bool)
    mask[0, :80] = True
    mask[1] = True
    assert downsample_mask(mask, 4).tolist() == [[True, True, False, False], [True] * 4]


@pytest.mark.parametrize(("samples", "steps", "fraction", "valid"), [(127, 125, 0.008, False), (256, 250, 0.012, True)])
def test_the_threshold_of_a_valid_step_is_a_hundredth(samples, steps, fraction, valid):
    mask = torch.zeros(1, samples, dtype=torch.bool)
    mask[0, 1] = True
    assert downsample_weight(mask.float(), steps)[0, 0].item() == pytest.approx(fraction, abs=1e-6)
    assert downsample_mask(mask, steps)[0, 0] == valid


def test_an_empty_row_keeps_its_fallback_step_or_the_middle_one():
    empty = torch.zeros(4, 80, dtype=torch.bool)
    fallback_step = torch.tensor([0.0, 0.3, 0.99, 1.0])
    assert downsample_mask(empty, 8, fallback_step).nonzero().tolist() == [[0, 0], [1, 2], [2, 7], [3, 7]]
    assert downsample_mask(empty, 8).nonzero().tolist() == [[row, 4] for row in range(4)]


def test_a_row_with_valid_samples_ignores_its_fallback_step():
    mask = torch.zeros(2, 80, dtype=torch.bool)
    mask[0, :10] = True
    assert downsample_mask(mask, 8, torch.tensor([0.9, 0.9])).tolist() == [[True] + [False] * 7, [False] * 7 + [True]]
