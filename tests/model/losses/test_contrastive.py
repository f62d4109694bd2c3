import itertools
import math

import pytest
import torch
from torch.nn import functional

from model.losses import contrastive
from model.losses.contrastive import CONTRASTIVE_LOSSES, ContrastiveConfig, LogitScale, to_logits

B = 5


def _logits():
    return torch.randn(B, B, dtype=torch.float64, requires_grad=True)


def test_info_nce_of_two_pairs_worked_out_by_hand():
    # Own pairs score 1, others 0, scale e: every row and column gives log(1 + exp(-e)).
    logits = to_logits(torch.eye(2), LogitScale(torch.tensor(1.0)))
    assert contrastive.info_nce(logits).item() == pytest.approx(math.log(1 + math.exp(-math.e)))


def test_info_nce_is_the_mean_of_both_directions_and_cross_entropy_the_first_alone():
    logits = torch.tensor([[1.0, 3.0], [0.0, 2.0]])
    rows, columns = (functional.cross_entropy(each, torch.arange(2)).item() for each in (logits, logits.T))
    assert contrastive.info_nce(logits).item() == pytest.approx((rows + columns) / 2)
    assert contrastive.cross_entropy(logits).item() == pytest.approx(rows) != pytest.approx(columns)


def test_label_smoothing_divides_a_share_of_the_target_among_the_other_pairs():
    logits, share = _logits(), 0.2
    target = torch.full((B, B), share / (B - 1), dtype=torch.float64).fill_diagonal_(1 - share)
    rows, columns = (-(target * each.log_softmax(dim=1)).sum(dim=1).mean() for each in (logits, logits.T))
    assert contrastive.info_nce(logits, share).item() == pytest.approx(((rows + columns) / 2).item())
    assert contrastive.cross_entropy(logits, share).item() == pytest.approx(rows.item())
    p = logits.sigmoid()
    assert contrastive.binary_cross_entropy(logits, share).item() == pytest.approx(
        -(target * p.log() + (1 - target) * (1 - p).log()).mean().item()
    )
    assert contrastive.info_nce(logits[:1, :1], share) == 0


def test_margin_ranking_agrees_with_a_slow_loop():
    logits, margin = _logits(), 0.7
    late = sum(
        max(0.0, margin - logits[i, i].item() + other)
        for i, j in itertools.permutations(range(B), 2)
        for other in (logits[i, j].item(), logits[j, i].item())
    )
    assert contrastive.margin_ranking_loss(logits, margin).item() == pytest.approx(late / (2 * B * B))


def test_binary_cross_entropy_agrees_with_a_slow_loop_and_siglip_is_its_sum_over_b():
    logits = _logits()
    each = [
        -math.log(1 / (1 + math.exp(-(1 if i == j else -1) * logits[i, j].item())))
        for i, j in itertools.product(range(B), repeat=2)
    ]
    assert contrastive.binary_cross_entropy(logits).item() == pytest.approx(sum(each) / B**2)
    assert contrastive.siglip(logits).item() == pytest.approx(sum(each) / B)


@pytest.mark.parametrize("name", CONTRASTIVE_LOSSES)
def test_every_objective_prefers_own_pairs_and_is_blind_to_the_order_of_the_batch(name):
    logits, order = _logits(), torch.tensor([3, 0, 4, 1, 2])
    objective, settings = CONTRASTIVE_LOSSES[name], ContrastiveConfig(name, 0.0, 2.0)
    (gradient,) = torch.autograd.grad(objective(logits, settings), logits)
    assert (gradient.diagonal() < 0).all() and (gradient[~torch.eye(B, dtype=torch.bool)] >= 0).all()
    assert torch.allclose(objective(logits, settings), objective(logits[order][:, order], settings))
    assert torch.autograd.gradcheck(lambda x: objective(x, settings), logits)


@pytest.mark.parametrize("name", [name for name in CONTRASTIVE_LOSSES if name not in contrastive.WITH_BIAS])
def test_objectives_that_compare_logits_are_blind_to_a_bias(name):
    logits = _logits()
    assert torch.allclose(
        CONTRASTIVE_LOSSES[name](logits, ContrastiveConfig()), CONTRASTIVE_LOSSES[name](logits + 3, ContrastiveConfig())
    )


def test_the_bias_is_added_after_the_scale():
    logits = to_logits(torch.ones(2, 2), LogitScale(torch.tensor(math.log(3.0)), torch.tensor(-10.0)))
    assert torch.allclose(logits, torch.full((2, 2), -7.0))


def test_the_scale_stays_between_a_hundredth_and_a_hundred():
    assert [contrastive.logit_scale(torch.tensor(w)).item() for w in (-9.0, 0.0, 9.0)] == pytest.approx(
        [0.01, 1.0, 100.0]
    )
