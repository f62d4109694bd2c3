"""Fused scores and their gradients against the dense ones."""

import itertools

import pytest
import torch

from model.features import AudioFeatures, ImageFeatures
from model.similarity import dense, fused
from model.similarity.config import SimilarityConfig
from model.similarity.fused import tiled

A, V, K, C, H, W, T = 3, 4, 2, 5, 3, 4, 7
FORMS = list(itertools.product(dense.AGGREGATIONS, dense.HEAD_AGGREGATIONS, (False, True), (False, True)))


def _inputs(use_cls, dtype=torch.float64):
    """Leaf tensors that require gradients, and a mask with at least one valid step in each row."""
    shapes = [(A, K, C, T), (V, K, C, H, W)] + ([(A, K, C), (V, K, C)] if use_cls else [])
    leaves = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    mask = torch.rand(A, T) > 0.4
    mask[:, 2] = True
    return leaves, mask


def _features(leaves, mask):
    """Features of audio, image and, where there are four tensors, their class tokens."""
    audio, image, audio_cls, image_cls = [*leaves, None, None][:4]
    return AudioFeatures(audio, mask, audio_cls), ImageFeatures(image, image_cls)


def _config(leaves, aggregation="misa", head_aggregation="max_elementwise", nonneg=False):
    return SimilarityConfig(aggregation, head_aggregation, nonneg, use_cls=len(leaves) == 4)


def _run(module, leaves, mask, config):
    """Scores, scores per head, and the gradients of both."""
    scores = module.pairwise_similarity(*_features(leaves, mask), config)
    by_head = module.similarity_per_head(*_features(leaves, mask), config)
    generator = torch.Generator().manual_seed(1)
    weight, weight_by_head = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (scores, by_head))
    return [
        scores,
        by_head,
        *torch.autograd.grad(scores, leaves, weight),
        *torch.autograd.grad(by_head, leaves, weight_by_head),
    ]


@pytest.mark.parametrize(("aggregation", "head_aggregation", "nonneg", "use_cls"), FORMS)
def test_values_and_gradients_equal_the_dense_ones(aggregation, head_aggregation, nonneg, use_cls, monkeypatch):
    # Small tiles, so that there are several and the last is not full.
    monkeypatch.setitem(tiled.TILE_NUMBERS, "cpu", 3 * A * T * H * W)
    monkeypatch.setitem(tiled.EDGES_PER_CHUNK, "cpu", 3 * A * T)
    leaves, mask = _inputs(use_cls)
    config = _config(leaves, aggregation, head_aggregation, nonneg)
    ours, exact = (_run(module, leaves, mask, config) for module in (fused, dense))
    for one, other in zip(ours, exact, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("head_aggregation", ["max_elementwise", "sum"])
@pytest.mark.parametrize("aggregation", ["misa", "mima", "paired"])
def test_any_number_of_threads_gives_identical_bits_that_equal_dense(aggregation, head_aggregation):
    # Several tiles of one image, and several parts of the gradients of both sides.
    generator = torch.Generator().manual_seed(0)
    shapes = [(40, 2, 16, 20), (48, 2, 16, 8, 8), (40, 2, 16), (48, 2, 16)]
    leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    mask = torch.rand(40, 20, generator=generator) > 0.3
    mask[:, 0] = True
    config = _config(leaves, aggregation, head_aggregation)
    assert 4 * tiled.TILE_NUMBERS["cpu"] < 40 * 20 * 8 * 8 * 48 and tiled.EDGES_PER_CHUNK["cpu"] < 40 * 20 * 48
    outcomes = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            outcomes.append(_run(fused, leaves, mask, config))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)
    exact = _run(dense, leaves, mask, config)
    for one, two, five, expected in zip(*outcomes, exact, strict=True):
        assert torch.equal(one, two) and torch.equal(one, five)
        assert torch.allclose(one, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("aggregation", "head_aggregation", "nonneg"),
    list(itertools.product(dense.AGGREGATIONS, ("max_elementwise", "sum"), (False, True))),
)
def test_gradients_equal_finite_differences(aggregation, head_aggregation, nonneg):
    mask = torch.tensor([[True, True, False], [False, True, True]])
    leaves = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 2, 3, 3), (2, 2, 3, 2, 2), (2, 2, 3), (2, 2, 3))
    ]

    def score(*leaves):
        config = _config(leaves, aggregation, head_aggregation, nonneg)
        return fused.pairwise_similarity(*_features(leaves, mask), config)

    assert torch.autograd.gradcheck(score, leaves)


@pytest.mark.parametrize(("aggregation", "head_aggregation", "nonneg", "use_cls"), FORMS)
def test_ties_send_the_gradient_to_the_same_candidate_as_dense(aggregation, head_aggregation, nonneg, use_cls):
    # Sums of small whole numbers are exact in any order, and full of ties; so are means over 1, 2 or 4 steps.
    shapes = [(3, 2, 3, 4), (4, 2, 3, 2, 2)] + ([(3, 2, 3), (4, 2, 3)] if use_cls else [])
    leaves = [torch.randint(-1, 2, shape).float().requires_grad_() for shape in shapes]
    mask = torch.tensor([[True, True, True, True], [False, False, True, True], [False, True, False, False]])
    config = _config(leaves, aggregation, head_aggregation, nonneg)
    outcomes = []
    for module in (fused, dense):
        scores = module.pairwise_similarity(*_features(leaves, mask), config)
        weight = torch.arange(-5, 7.0).view(3, 4)
        outcomes.append([scores, *torch.autograd.grad(scores, leaves, weight)])
    assert all(map(torch.equal, *outcomes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("aggregation", "head_aggregation"), list(itertools.product(dense.AGGREGATIONS, ("max_elementwise", "sum")))
)
def test_half_precision_features_give_scores_in_fp32_and_gradients_in_half(aggregation, head_aggregation, dtype):
    leaves, mask = _inputs(True, dtype)
    config = _config(leaves, aggregation, head_aggregation, True)
    ours = _run(fused, leaves, mask, config)
    exact = _run(dense, [leaf.detach().float().requires_grad_() for leaf in leaves], mask, config)
    assert [x.dtype for x in ours] == [torch.float32] * 2 + [dtype] * 8
    assert all(torch.allclose(one, other, rtol=0, atol=1e-5) for one, other in zip(ours[:2], exact[:2], strict=True))
    assert all(
        torch.allclose(one.float(), other, rtol=2**-7, atol=2**-7)
        for one, other in zip(ours[2:], exact[2:], strict=True)
    )


@pytest.mark.parametrize(
    ("aggregation", "numbers"), [("misa", A * V * T), ("mima", A * V * T), ("paired", A * V * (T + H * W))]
)
def test_one_arg_max_of_two_bytes_is_stored_for_all_heads(aggregation, numbers):
    leaves, mask = _inputs(True, torch.float32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        config = _config(leaves, aggregation, "max_elementwise", True)
        fused.pairwise_similarity(*_features(leaves, mask), config)
    assert sum(tensor.nbytes for tensor in saved if tensor.dtype == torch.int16) == 2 * numbers
    assert max(tensor.nbytes for tensor in saved if tensor.dtype != torch.int16) <= max(leaf.nbytes for leaf in leaves)


def test_more_candidates_than_int16_can_index():
    leaves = [torch.randn(1, 2, 2, 30, requires_grad=True), torch.randn(1, 2, 2, 170, 170, requires_grad=True)]
    mask = torch.ones(1, 30, dtype=torch.bool)
    gradients = [
        torch.autograd.grad(module.pairwise_similarity(*_features(leaves, mask), SimilarityConfig()).sum(), leaves)
        for module in (fused, dense)
    ]
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))


def test_nothing_is_stored_without_gradients():
    leaves, mask = _inputs(True, torch.float32)
    config = _config(leaves, "paired", "sum")
    with_gradient = fused.pairwise_similarity(*_features(leaves, mask), config)
    without = fused.pairwise_similarity(*_features([leaf.detach() for leaf in leaves], mask), config)
    assert torch.equal(with_gradient, without)
    assert not without.requires_grad


@pytest.mark.parametrize("aggregation", dense.AGGREGATIONS)
def test_nan_features_give_nan_scores(aggregation):
    (audio, image), mask = _inputs(False)
    image = image.detach()
    image[1, 0, 0, 1, 1] = float("nan")
    config = SimilarityConfig(aggregation)
    exact, ours = (module.pairwise_similarity(*_features([audio, image], mask), config) for module in (dense, fused))
    assert exact.isnan().any()
    assert torch.equal(exact.isnan(), ours.isnan())


def test_features_may_be_non_contiguous_and_one_side_frozen():
    audio = torch.randn(T, C, K, A).permute(3, 2, 1, 0).requires_grad_()
    image = torch.randn(V, K, W, C, H).permute(0, 1, 3, 4, 2)
    features = _features([audio, image], torch.ones(A, T, dtype=torch.bool))
    gradients = [
        torch.autograd.grad(module.pairwise_similarity(*features, SimilarityConfig()).sum(), audio)[0]
        for module in (fused, dense)
    ]
    assert torch.allclose(*gradients, atol=1e-5)


def test_a_zero_gradient_of_the_scores_gives_zero_gradients():
    leaves, mask = _inputs(False)
    scores = fused.pairwise_similarity(*_features(leaves, mask), SimilarityConfig())
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(0 * scores.sum(), leaves))


def test_an_unknown_aggregation_is_refused():
    leaves, mask = _inputs(False)
    with pytest.raises(AssertionError, match="aggregation softmax"):
        fused.pairwise_similarity(*_features(leaves, mask), SimilarityConfig("softmax"))


@pytest.mark.parametrize("aggregation", dense.AGGREGATIONS)
@pytest.mark.parametrize("head_aggregation", ["max_elementwise", "sum"])
def test_autocast_does_not_change_the_values(aggregation, head_aggregation):
    leaves, mask = _inputs(True, torch.float32)
    config = _config(leaves, aggregation, head_aggregation)
    outcomes = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            scores = fused.pairwise_similarity(*_features(leaves, mask), config)
        outcomes.append([scores, *torch.autograd.grad(scores.logsumexp(dim=1).sum(), leaves)])
    assert all(map(torch.equal, *outcomes))
