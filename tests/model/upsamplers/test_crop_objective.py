"""Objectives of AnyUp and NAF, worked out by hand on small maps."""

import math

import pytest
import torch
from torch.nn import functional

from model.upsamplers.anyup import AnyUp
from model.upsamplers.crop_objective import CropTarget, CropWeights, cosine_and_scaled_mse, crop_objective


def maps(*cells):
    """Feature maps [1, 2, 1, W] from the two channels of each cell."""
    return torch.tensor(cells).T[None, :, None]


def test_the_distance_is_one_minus_the_cosine_and_an_error_scaled_by_the_range_of_the_target():
    output, target = maps([1.0, 0.0], [1.0, 1.0]), maps([0.0, 2.0], [1.0, 3.0])
    cosine = (1 - 0 + 1 - 4 / math.sqrt(2 * 10)) / 2
    squared = ((1 / 2) ** 2 + (2 / 2) ** 2 + 0 + (2 / 2) ** 2) / 4
    assert cosine_and_scaled_mse(output, target).item() == pytest.approx(cosine + squared)


def test_an_output_equal_to_its_crops_and_its_input_has_no_loss():
    large = functional.interpolate(torch.randn(2, 5, 3, 4), scale_factor=2, mode="nearest")
    small = large[:, :, ::2, ::2]
    targets = [
        CropTarget(row, column, large[:, :, row : row + 3, column : column + 4]) for row, column in ((0, 0), (3, 4))
    ]
    terms = crop_objective(large, small, targets, augmented=large)
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in terms.values())


def test_terms_are_weighted_and_a_crop_is_compared_where_it_was_cut():
    large, target = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 2, 2)
    large[:, :, 2:, 1:3] = 1
    wrong = crop_objective(large, torch.zeros(1, 1, 2, 2), [CropTarget(0, 0, target)], distance=functional.mse_loss)
    right = crop_objective(large, torch.zeros(1, 1, 2, 2), [CropTarget(2, 1, target)], distance=functional.mse_loss)
    assert right["reconstruction"] == 0 and wrong["reconstruction"] == 1
    assert right["consistency"].item() == pytest.approx((0.5**2 + 0.5**2) / 4)
    both = crop_objective(
        large, torch.zeros(1, 1, 2, 2), [CropTarget(0, 0, target)], large, CropWeights(0.5, 0.0), functional.mse_loss
    )
    assert both["total"].item() == pytest.approx(1.5) and both["consistency"] == 0


def test_some_steps_of_training_lower_the_loss_and_reach_every_weight_of_the_guide():
    torch.manual_seed(0)
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, :, 12:] = 1
    exact = torch.stack([image[0, 0], 1 - image[0, 0]])[None]
    large, small = (functional.adaptive_avg_pool2d(exact, side) for side in (16, 4))
    guide = AnyUp(channels=16, window_ratio=0.3)
    optimizer = torch.optim.AdamW(guide.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        upsampled = guide.guided_weights(image, small, (16, 16)).apply(small)
        loss = crop_objective(
            upsampled, small, [CropTarget(0, 0, large[:, :, :8, :8]), CropTarget(4, 8, large[:, :, 4:, 8:])]
        )
        optimizer.zero_grad()
        loss["total"].backward()
        assert all(weight.grad is not None for weight in guide.parameters())
        optimizer.step()
        losses.append(loss["total"].item())
    assert losses[-1] < 0.5 * losses[0]
