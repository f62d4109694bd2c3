import pytest
import torch

from model.audio_mask import downsample_mask, downsample_weight


def test_a_weight_is_read_between_the_two_samples_at_each_steps_centre():
    weight = torch.tensor([[0.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.2, 0.4]])
    # Eight samples into two steps: centres at 1.5 and 5.5, half-way between samples 1, 2 and 5, 6.
    assert torch.allclose(downsample_weight(weight, 2), torch.tensor([[1.0, 0.1]]))


def test_a_mask_is_valid_where_more_than_a_hundredth_of_the_step_is():
    mask = torch.zeros(2, 160, dtype=torch.bool)
    mask[0, :80] = True
    mask[1] = True
    assert downsample_mask(mask, 4).tolist() == [[True, True, False, False], [True] * 4]


@pytest.mark.parametrize(("samples", "steps", "share", "valid"), [(127, 125, 0.008, False), (256, 250, 0.012, True)])
def test_of_a_step_that_is_hardly_sound_a_hundredth_decides(samples, steps, share, valid):
    mask = torch.zeros(1, samples, dtype=torch.bool)
    mask[0, 1] = True
    assert downsample_weight(mask.float(), steps)[0, 0].item() == pytest.approx(share, abs=1e-6)
    assert downsample_mask(mask, steps)[0, 0] == valid


def test_an_empty_row_keeps_one_step_where_it_is_told_or_in_the_middle():
    empty = torch.zeros(4, 80, dtype=torch.bool)
    lone = torch.tensor([0.0, 0.3, 0.99, 1.0])
    assert downsample_mask(empty, 8, lone).nonzero().tolist() == [[0, 0], [1, 2], [2, 7], [3, 7]]
    assert downsample_mask(empty, 8).nonzero().tolist() == [[row, 4] for row in range(4)]


def test_a_row_with_sound_keeps_its_own_steps_beside_an_empty_one():
    mask = torch.zeros(2, 80, dtype=torch.bool)
    mask[0, :10] = True
    assert downsample_mask(mask, 8, torch.tensor([0.9, 0.9])).tolist() == [[True] + [False] * 7, [False] * 7 + [True]]
