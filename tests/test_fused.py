import itertools

import pytest
import torch

from model.grounding import fused, similarity

A, V, K, C, H, W, T = 3, 4, 2, 5, 3, 4, 7
FORMS = list(itertools.product(similarity.AGGREGATIONS, similarity.HEAD_AGGREGATIONS, (False, True), (False, True)))


def _inputs(use_cls, dtype=torch.float64):
    """Features that want a gradient, and a mask with one valid step at least in each row."""
    shapes = [(A, K, C, T), (V, K, C, H, W)] + ([(A, K, C), (V, K, C)] if use_cls else [])
    features = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    mask = torch.rand(A, T) > 0.4
    mask[:, 2] = True
    return features, mask


def _run(module, features, mask, aggregation, head_aggregation, nonneg):
    """Scores, scores by head, and the gradients of both."""
    audio, image, *cls = features
    scores = module.all_pairs_scores(audio, image, mask, aggregation, head_aggregation, nonneg, *cls)
    by_head = module.scores_by_head(audio, image, mask, aggregation, nonneg, *cls)
    generator = torch.Generator().manual_seed(1)
    weight, weight_by_head = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (scores, by_head))
    return [scores, by_head, *torch.autograd.grad(scores, features, weight), *torch.autograd.grad(by_head, features, weight_by_head)]


@pytest.mark.parametrize(("aggregation", "head_aggregation", "nonneg", "use_cls"), FORMS)
def test_values_and_gradients_equal_the_plain_form(aggregation, head_aggregation, nonneg, use_cls, monkeypatch):
    # Small tiles, so that several are made and the last is cut short.
    monkeypatch.setitem(fused.TILE_NUMBERS, "cpu", 3 * A * T * H * W)
    monkeypatch.setitem(fused.WINNERS_AT_ONCE, "cpu", 3 * A * T)
    features, mask = _inputs(use_cls)
    ours, plain = (_run(module, features, mask, aggregation, head_aggregation, nonneg) for module in (fused, similarity))
    for one, other in zip(ours, plain, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("aggregation", "nonneg"), [*itertools.product(similarity.AGGREGATIONS, (False,)), ("misa", True), ("sisa", True)])
def test_gradients_equal_finite_differences(aggregation, nonneg):
    mask = torch.tensor([[True, True, False], [False, True, True]])
    features = [torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 2, 3, 2, 2, dtype=torch.float64, requires_grad=True)]
    assert torch.autograd.gradcheck(lambda audio, image: fused.all_pairs_scores(audio, image, mask, aggregation, "max_elementwise", nonneg), features)


def test_of_equal_cells_the_first_alone_gets_the_gradient():
    audio = torch.ones(1, 1, 2, 1, requires_grad=True)
    image = torch.ones(1, 1, 2, 2, 2, requires_grad=True)
    fused.all_pairs_scores(audio, image, torch.ones(1, 1, dtype=torch.bool)).backward()
    assert image.grad[0, 0, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_features_need_not_be_contiguous_and_one_side_may_be_frozen():
    audio = torch.randn(T, C, K, A).permute(3, 2, 1, 0).requires_grad_()
    image = torch.randn(V, K, W, C, H).permute(0, 1, 3, 4, 2)
    mask = torch.ones(A, T, dtype=torch.bool)
    grads = [torch.autograd.grad(module.all_pairs_scores(audio, image, mask).sum(), audio)[0] for module in (fused, similarity)]
    assert torch.allclose(*grads, atol=1e-5)


def test_a_score_nobody_weighs_gives_zero_gradients():
    features, mask = _inputs(False)
    grads = torch.autograd.grad(0 * fused.all_pairs_scores(*features, mask).sum(), features)
    assert all((grad == 0).all() for grad in grads)


def test_an_unknown_aggregation_is_refused():
    features, mask = _inputs(False)
    with pytest.raises(AssertionError, match="aggregation softmax"):
        fused.all_pairs_scores(*features, mask, "softmax")


def test_autocast_changes_no_number():
    features, mask = _inputs(False, torch.float32)
    plain = fused.all_pairs_scores(*features, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fused.all_pairs_scores(*features, mask), plain)
