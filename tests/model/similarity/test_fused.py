import itertools

import pytest
import torch

from model.similarity import dense, fused
from model.similarity.fused import tiled

A, V, K, C, H, W, T = 3, 4, 2, 5, 3, 4, 7
FORMS = list(itertools.product(dense.AGGREGATIONS, dense.HEAD_AGGREGATIONS, (False, True), (False, True)))


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
    scores = module.pairwise_similarity(audio, image, mask, aggregation, head_aggregation, nonneg, *cls)
    by_head = module.similarity_per_head(audio, image, mask, aggregation, nonneg, *cls)
    generator = torch.Generator().manual_seed(1)
    weight, weight_by_head = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (scores, by_head))
    return [
        scores,
        by_head,
        *torch.autograd.grad(scores, features, weight),
        *torch.autograd.grad(by_head, features, weight_by_head),
    ]


@pytest.mark.parametrize(("aggregation", "head_aggregation", "nonneg", "use_cls"), FORMS)
def test_values_and_gradients_equal_the_plain_form(aggregation, head_aggregation, nonneg, use_cls, monkeypatch):
    # Small tiles, so that several are made and the last is cut short.
    monkeypatch.setitem(tiled.TILE_NUMBERS, "cpu", 3 * A * T * H * W)
    monkeypatch.setitem(tiled.WINNERS_AT_ONCE, "cpu", 3 * A * T)
    features, mask = _inputs(use_cls)
    ours, plain = (_run(module, features, mask, aggregation, head_aggregation, nonneg) for module in (fused, dense))
    for one, other in zip(ours, plain, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("aggregation", "head_aggregation", "nonneg"),
    list(itertools.product(dense.AGGREGATIONS, ("max_elementwise", "sum"), (False, True))),
)
def test_gradients_equal_finite_differences(aggregation, head_aggregation, nonneg):
    mask = torch.tensor([[True, True, False], [False, True, True]])
    features = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 2, 3, 3), (2, 2, 3, 2, 2), (2, 2, 3), (2, 2, 3))
    ]

    def score(audio, image, *cls):
        return fused.pairwise_similarity(audio, image, mask, aggregation, head_aggregation, nonneg, *cls)

    assert torch.autograd.gradcheck(score, features)


@pytest.mark.parametrize(("aggregation", "head_aggregation", "nonneg", "use_cls"), FORMS)
def test_of_equal_numbers_the_one_that_wins_in_the_plain_form_gets_the_gradient(
    aggregation, head_aggregation, nonneg, use_cls
):
    # Sums of small whole numbers are exact in any order, and full of ties; so are means over 1, 2 or 4 steps.
    shapes = [(3, 2, 3, 4), (4, 2, 3, 2, 2)] + ([(3, 2, 3), (4, 2, 3)] if use_cls else [])
    features = [torch.randint(-1, 2, shape).float().requires_grad_() for shape in shapes]
    mask = torch.tensor([[True, True, True, True], [False, False, True, True], [False, True, False, False]])
    audio, image, *cls = features
    outcomes = []
    for module in (fused, dense):
        scores = module.pairwise_similarity(audio, image, mask, aggregation, head_aggregation, nonneg, *cls)
        weight = torch.arange(-5, 7.0).view(3, 4)
        outcomes.append([scores, *torch.autograd.grad(scores, features, weight)])
    assert all(map(torch.equal, *outcomes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("aggregation", "head_aggregation"), list(itertools.product(dense.AGGREGATIONS, ("max_elementwise", "sum")))
)
def test_half_precision_features_give_scores_in_fp32_and_gradients_in_half(aggregation, head_aggregation, dtype):
    features, mask = _inputs(True, dtype)
    ours = _run(fused, features, mask, aggregation, head_aggregation, True)
    plain = _run(
        dense,
        [feature.detach().float().requires_grad_() for feature in features],
        mask,
        aggregation,
        head_aggregation,
        True,
    )
    assert [x.dtype for x in ours] == [torch.float32] * 2 + [dtype] * 8
    assert all(torch.allclose(one, other, rtol=0, atol=1e-5) for one, other in zip(ours[:2], plain[:2], strict=True))
    assert all(
        torch.allclose(one.float(), other, rtol=2**-7, atol=2**-7)
        for one, other in zip(ours[2:], plain[2:], strict=True)
    )


@pytest.mark.parametrize(
    ("aggregation", "numbers"), [("misa", A * V * T), ("mima", A * V * T), ("paired", A * V * (T + H * W))]
)
def test_one_winner_of_two_bytes_is_kept_for_all_heads(aggregation, numbers):
    features, mask = _inputs(True, torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        fused.pairwise_similarity(*features[:2], mask, aggregation, "max_elementwise", True, *features[2:])
    assert sum(tensor.nbytes for tensor in kept if tensor.dtype == torch.int16) == 2 * numbers
    assert max(tensor.nbytes for tensor in kept if tensor.dtype != torch.int16) <= max(
        feature.nbytes for feature in features
    )


def test_more_candidates_than_two_bytes_can_number():
    audio, image = torch.randn(1, 2, 2, 30, requires_grad=True), torch.randn(1, 2, 2, 170, 170, requires_grad=True)
    mask = torch.ones(1, 30, dtype=torch.bool)
    gradients = [
        torch.autograd.grad(module.pairwise_similarity(audio, image, mask).sum(), (audio, image))
        for module in (fused, dense)
    ]
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))


def test_nothing_is_kept_without_a_gradient():
    features, mask = _inputs(True, torch.float32)
    with_gradient = fused.pairwise_similarity(*features[:2], mask, "paired", "sum", False, *features[2:])
    without = fused.pairwise_similarity(
        *(x.detach() for x in features[:2]), mask, "paired", "sum", False, *(x.detach() for x in features[2:])
    )
    assert torch.equal(with_gradient, without)
    assert not without.requires_grad


@pytest.mark.parametrize("aggregation", dense.AGGREGATIONS)
def test_a_feature_that_is_not_a_number_shows_in_the_scores(aggregation):
    (audio, image), mask = _inputs(False)
    image = image.detach()
    image[1, 0, 0, 1, 1] = float("nan")
    plain, ours = (module.pairwise_similarity(audio, image, mask, aggregation) for module in (dense, fused))
    assert plain.isnan().any()
    assert torch.equal(plain.isnan(), ours.isnan())


def test_features_need_not_be_contiguous_and_one_side_may_be_frozen():
    audio = torch.randn(T, C, K, A).permute(3, 2, 1, 0).requires_grad_()
    image = torch.randn(V, K, W, C, H).permute(0, 1, 3, 4, 2)
    mask = torch.ones(A, T, dtype=torch.bool)
    grads = [
        torch.autograd.grad(module.pairwise_similarity(audio, image, mask).sum(), audio)[0] for module in (fused, dense)
    ]
    assert torch.allclose(*grads, atol=1e-5)


def test_a_score_nobody_weighs_gives_zero_gradients():
    features, mask = _inputs(False)
    grads = torch.autograd.grad(0 * fused.pairwise_similarity(*features, mask).sum(), features)
    assert all((grad == 0).all() for grad in grads)


def test_an_unknown_aggregation_is_refused():
    features, mask = _inputs(False)
    with pytest.raises(AssertionError, match="aggregation softmax"):
        fused.pairwise_similarity(*features, mask, "softmax")


@pytest.mark.parametrize("aggregation", dense.AGGREGATIONS)
@pytest.mark.parametrize("head_aggregation", ["max_elementwise", "sum"])
def test_autocast_changes_no_number(aggregation, head_aggregation):
    features, mask = _inputs(True, torch.float32)
    outcomes = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            scores = fused.pairwise_similarity(*features[:2], mask, aggregation, head_aggregation, False, *features[2:])
        outcomes.append([scores, *torch.autograd.grad(scores.logsumexp(dim=1).sum(), features)])
    assert all(map(torch.equal, *outcomes))
