"""Scores without gradients on a CPU: the values of dense.py for any tile size and number of threads."""

import itertools
import re

import pytest
import torch

from model.audio_mask import downsample_mask
from model.features import AudioFeatures, ImageFeatures, map_tensors
from model.similarity import dense, fused
from model.similarity.config import SimilarityConfig
from model.similarity.fused import inference_cpu

A, V, K, C, SIDE, T = 5, 4, 2, 6, 3, 7
MISA = SimilarityConfig()


def _features():
    mask = torch.rand(A, T) < 0.6
    mask[0], mask[1] = True, torch.arange(T) == 3
    audio = AudioFeatures(torch.randn(A, K, C, T), downsample_mask(mask, T), torch.randn(A, K, C))
    return audio, ImageFeatures(torch.randn(V, K, C, SIDE, SIDE), torch.randn(V, K, C))


@pytest.mark.parametrize(
    ("aggregation", "heads", "nonneg", "cls"),
    [*itertools.product(("misa", "mima"), ("max_elementwise", "sum"), (False, True), (False, True))],
)
def test_values_equal_the_dense_ones(aggregation, heads, nonneg, cls, monkeypatch):
    audio, image = _features()
    if nonneg:
        audio, image = audio._replace(dense=audio.dense - 1), image._replace(dense=image.dense + 1)
    config = SimilarityConfig(aggregation, heads, nonneg, cls)
    expected = dense.pairwise_similarity(audio, image, config)
    for numbers in (1, 40, 2**18):
        monkeypatch.setattr(inference_cpu, "TILE_NUMBERS", numbers)
        assert torch.allclose(fused.pairwise_similarity(audio, image, config), expected, atol=1e-5)
    assert expected.std() > 0.01


def test_masked_out_steps_have_no_influence_and_half_precision_is_scored_in_float32():
    audio, image = _features()
    changed = audio._replace(dense=torch.where(audio.mask[:, None, None], audio.dense, 1e3))
    assert torch.equal(fused.similarity_per_head(audio, image, MISA), fused.similarity_per_head(changed, image, MISA))
    audio, image = audio._replace(cls=None), image._replace(cls=None)
    audio = audio._replace(dense=audio.dense.bfloat16())
    image = map_tensors(image, torch.Tensor.bfloat16)
    half = fused.similarity_per_head(audio, image, MISA)
    exact = dense.similarity_per_head(
        audio._replace(dense=audio.dense.float()), map_tensors(image, torch.Tensor.float), MISA
    )
    assert half.dtype == torch.float32 and torch.allclose(half, exact, atol=1e-5)


def _num_product_threads():
    """Threads of MKL, which counts them for the whole process; without MKL torch's own."""
    match = re.search(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
    return int(match[1]) if match else torch.get_num_threads()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_every_mode_and_thread_count_gives_identical_bits_and_restores_the_thread_count(mode):
    audio, image = _features()
    alone = fused.similarity_per_head(audio, image, MISA)
    torch.set_num_threads(3)
    try:
        with mode():
            assert torch.equal(fused.similarity_per_head(audio, image, MISA), alone)
        assert torch.get_num_threads() == 3 and _num_product_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_only_scores_without_gradient_are_computed_this_way():
    audio, image = _features()
    steps, cells = audio.dense, image.dense.flatten(3)
    learned = steps.clone().requires_grad_()
    assert inference_cpu.is_applicable(steps, cells, None, "misa")
    assert not inference_cpu.is_applicable(steps, cells, None, "paired")
    assert not inference_cpu.is_applicable(learned, cells, None, "misa")
    pair_bias = torch.zeros(A, V, K, requires_grad=True)
    assert not inference_cpu.is_applicable(steps, cells, pair_bias, "misa")
    with torch.no_grad():
        assert inference_cpu.is_applicable(learned, cells, None, "misa")
    scores = fused.similarity_per_head(audio._replace(dense=learned), image, MISA)
    (gradient,) = torch.autograd.grad(scores.sum(), learned)
    assert gradient.abs().sum() > 0
    assert torch.allclose(scores.detach(), fused.similarity_per_head(audio, image, MISA), atol=1e-5)
