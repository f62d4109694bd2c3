"""Contrastive losses against values worked out by hand and slow loops."""

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


def _several_positives():
    """Pairs 0 and 2 match each other, and pairs 1 and 4; pair 3 matches itself alone."""
    group = torch.tensor([0, 1, 0, 2, 1])
    return group[:, None] == group[None, :]


def test_info_nce_of_two_pairs_worked_out_by_hand():
    # Positives score 1, others 0, scale e: every row and column gives log(1 + exp(-e)).
    logits = to_logits(torch.eye(2), LogitScale(torch.tensor(1.0)))
    assert contrastive.info_nce(logits).item() == pytest.approx(math.log(1 + math.exp(-math.e)))


def test_info_nce_is_the_mean_of_both_directions_and_cross_entropy_is_audio_to_image():
    logits = torch.tensor([[1.0, 3.0], [0.0, 2.0]])
    rows, columns = (functional.cross_entropy(each, torch.arange(2)).item() for each in (logits, logits.T))
    assert contrastive.info_nce(logits).item() == pytest.approx((rows + columns) / 2)
    assert contrastive.cross_entropy(logits).item() == pytest.approx(rows) != pytest.approx(columns)


def test_label_smoothing_spreads_a_fraction_of_the_target_over_the_other_pairs():
    logits, smoothing = _logits(), 0.2
    target = torch.full((B, B), smoothing / (B - 1), dtype=torch.float64).fill_diagonal_(1 - smoothing)
    rows, columns = (-(target * each.log_softmax(dim=1)).sum(dim=1).mean() for each in (logits, logits.T))
    assert contrastive.info_nce(logits, None, smoothing).item() == pytest.approx(((rows + columns) / 2).item())
    assert contrastive.cross_entropy(logits, None, smoothing).item() == pytest.approx(rows.item())
    p = logits.sigmoid()
    assert contrastive.binary_cross_entropy(logits, None, smoothing).item() == pytest.approx(
        -(target * p.log() + (1 - target) * (1 - p).log()).mean().item()
    )
    assert contrastive.info_nce(logits[:1, :1], None, smoothing) == 0


def test_margin_ranking_loss_agrees_with_a_slow_loop():
    logits, margin = _logits(), 0.7
    excess = sum(
        max(0.0, margin - logits[i, i].item() + other)
        for i, j in itertools.permutations(range(B), 2)
        for other in (logits[i, j].item(), logits[j, i].item())
    )
    assert contrastive.margin_ranking_loss(logits, None, margin).item() == pytest.approx(excess / (2 * B * B))


def test_binary_cross_entropy_agrees_with_a_slow_loop_and_siglip_is_its_sum_over_b():
    logits = _logits()
    each = [
        -math.log(1 / (1 + math.exp(-(1 if i == j else -1) * logits[i, j].item())))
        for i, j in itertools.product(range(B), repeat=2)
    ]
    assert contrastive.binary_cross_entropy(logits).item() == pytest.approx(sum(each) / B**2)
    assert contrastive.siglip(logits).item() == pytest.approx(sum(each) / B)


def _slow_cross_entropy(logits, positives, smoothing):
    rows = []
    for row, own in zip(logits.tolist(), positives.tolist(), strict=True):
        log_total = math.log(sum(map(math.exp, row)))
        rows.append(
            sum(
                ((1 - smoothing) / sum(own) if matches else smoothing / (B - sum(own))) * (log_total - logit)
                for logit, matches in zip(row, own, strict=True)
            )
        )
    return sum(rows) / B


def _slow_margin(logits, positives, margin):
    rows = []
    for row, own in zip(logits.tolist(), positives.tolist(), strict=True):
        matching = [logit for logit, matches in zip(row, own, strict=True) if matches]
        others = [logit for logit, matches in zip(row, own, strict=True) if not matches]
        excess = [max(0.0, margin - one + other) for one in matching for other in others]
        rows.append(sum(excess) / len(matching) / B)
    return sum(rows) / B


def _slow_binary(logits, positives, smoothing):
    total = 0.0
    for row, own in zip(logits.tolist(), positives.tolist(), strict=True):
        for logit, matches in zip(row, own, strict=True):
            target = 1 - smoothing if matches else smoothing / (B - sum(own))
            p = 1 / (1 + math.exp(-logit))
            total -= target * math.log(p) + (1 - target) * math.log(1 - p)
    return total


@pytest.mark.parametrize("name", CONTRASTIVE_LOSSES)
def test_several_positives_in_a_row_agree_with_a_slow_loop(name):
    logits, positives, config = _logits(), _several_positives(), ContrastiveConfig(name, 0.1, 0.7)
    both = [(logits, positives), (logits.T, positives.T)]
    expected = {
        "info_nce": sum(_slow_cross_entropy(*each, 0.1) for each in both) / 2,
        "cross_entropy": _slow_cross_entropy(logits, positives, 0.1),
        "margin": sum(_slow_margin(*each, 0.7) for each in both) / 2,
        "bce": _slow_binary(logits, positives, 0.1) / B**2,
        "siglip": _slow_binary(logits, positives, 0.0) / B,
    }[name]
    loss = CONTRASTIVE_LOSSES[name](logits, positives, config)
    assert loss.item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient.abs().sum(dim=1) > 0).all()
    assert torch.autograd.gradcheck(lambda x: CONTRASTIVE_LOSSES[name](x, positives, config), logits)


def test_positives_that_are_not_symmetric_are_transposed_for_the_other_direction():
    logits, positives = _logits(), torch.eye(B, dtype=torch.bool)
    positives[0, 1] = True
    halves = [_slow_cross_entropy(logits, positives, 0.0), _slow_cross_entropy(logits.T, positives.T, 0.0)]
    assert contrastive.info_nce(logits, positives).item() == pytest.approx(sum(halves) / 2)
    halves = [_slow_margin(logits, positives, 1.0), _slow_margin(logits.T, positives.T, 1.0)]
    assert contrastive.margin_ranking_loss(logits, positives).item() == pytest.approx(sum(halves) / 2)


@pytest.mark.parametrize("pairs", [1, B])
@pytest.mark.parametrize("name", CONTRASTIVE_LOSSES)
def test_a_diagonal_of_positives_equals_no_positives(name, pairs):
    logits, config = _logits()[:pairs, :pairs], ContrastiveConfig(name, 0.1, 0.7)
    outcomes = []
    for positives in (None, torch.eye(pairs, dtype=torch.bool)):
        loss = CONTRASTIVE_LOSSES[name](logits, positives, config)
        outcomes.append([loss, *torch.autograd.grad(loss, logits)])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*outcomes, strict=True))
    assert pairs == 1 or outcomes[0][1].abs().sum() > 0


@pytest.mark.parametrize("positives", [None, torch.eye(B, dtype=torch.bool)], ids=["default", "diagonal"])
@pytest.mark.parametrize("name", CONTRASTIVE_LOSSES)
def test_every_objective_prefers_positives_and_ignores_the_order_of_the_batch(name, positives):
    logits, order = _logits(), torch.tensor([3, 0, 4, 1, 2])
    config = ContrastiveConfig(name, 0.0, 2.0)

    def objective(x):
        return CONTRASTIVE_LOSSES[name](x, positives, config)

    (gradient,) = torch.autograd.grad(objective(logits), logits)
    assert (gradient.diagonal() < 0).all() and (gradient[~torch.eye(B, dtype=torch.bool)] >= 0).all()
    assert torch.allclose(objective(logits), objective(logits[order][:, order]))
    assert torch.autograd.gradcheck(objective, logits)


@pytest.mark.parametrize("name", [name for name in CONTRASTIVE_LOSSES if name not in contrastive.WITH_BIAS])
@pytest.mark.parametrize("positives", [None, _several_positives()], ids=["default", "several"])
def test_objectives_that_compare_logits_are_invariant_to_a_bias(name, positives):
    logits, objective = _logits(), CONTRASTIVE_LOSSES[name]
    config = ContrastiveConfig()
    assert torch.allclose(objective(logits, positives, config), objective(logits + 3, positives, config))


def test_the_bias_is_added_after_the_scale():
    logits = to_logits(torch.ones(2, 2), LogitScale(torch.tensor(math.log(3.0)), torch.tensor(-10.0)))
    assert torch.allclose(logits, torch.full((2, 2), -7.0))


def test_the_logit_scale_is_clamped_to_a_hundredth_and_a_hundred():
    assert [contrastive.logit_scale(torch.tensor(w)).item() for w in (-9.0, 0.0, 9.0)] == pytest.approx(
        [0.01, 1.0, 100.0]
    )
