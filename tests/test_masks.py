import torch

from model.grounding.masks import step_mask, step_weight


def test_a_weight_is_read_between_the_two_samples_at_each_steps_centre():
    weight = torch.tensor([[0.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.2, 0.4]])
    # Eight samples into two steps: centres at 1.5 and 5.5, half-way between samples 1, 2 and 5, 6.
    assert torch.allclose(step_weight(weight, 2), torch.tensor([[1.0, 0.1]]))


def test_a_mask_is_valid_where_more_than_a_hundredth_of_the_step_is():
    mask = torch.zeros(2, 160, dtype=torch.bool)
    mask[0, :80] = True
    mask[1] = True
    assert step_mask(mask, 4).tolist() == [[True, True, False, False], [True] * 4]


def test_an_empty_row_gets_one_step_drawn_from_the_generator():
    empty = torch.zeros(500, 80, dtype=torch.bool)
    mask = step_mask(empty, 8, torch.Generator().manual_seed(3))
    assert (mask.sum(dim=1) == 1).all()
    assert (mask.sum(dim=0) > 30).all()
    assert torch.equal(mask, step_mask(empty, 8, torch.Generator().manual_seed(3)))
    assert not torch.equal(mask, step_mask(empty, 8, torch.Generator().manual_seed(4)))


def test_a_row_with_sound_does_not_change_what_the_next_row_draws():
    half = torch.zeros(2, 80, dtype=torch.bool)
    with_sound = half.clone()
    with_sound[0] = True
    drawn, beside = (step_mask(mask, 8, torch.Generator().manual_seed(5))[1] for mask in (half, with_sound))
    assert torch.equal(drawn, beside)
