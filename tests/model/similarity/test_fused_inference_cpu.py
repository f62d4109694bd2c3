"""Scores without gradients: the values of dense.py, from any tile and any number of threads, and only where no gradient is wanted."""

import itertools
import re

import pytest
import torch

from model.audio_mask import downsample_mask
from model.similarity import dense, fused
from model.similarity.fused import inference_cpu

A, V, K, C, SIDE, T = 5, 4, 2, 6, 3, 7


def _features(dtype=torch.float32):
    audio, image = torch.randn(A, K, C, T, dtype=dtype), torch.randn(V, K, C, SIDE, SIDE, dtype=dtype)
    mask = torch.rand(A, T) < 0.6
    mask[0], mask[1] = True, torch.arange(T) == 3
    return audio, image, downsample_mask(mask, T), torch.randn(A, K, C, dtype=dtype), torch.randn(V, K, C, dtype=dtype)


@pytest.mark.parametrize(
    ("aggregation", "heads", "nonneg", "cls"),
    [*itertools.product(("misa", "mima"), ("max_elementwise", "sum"), (False, True), (False, True))],
)
def test_values_are_those_of_the_plain_form(aggregation, heads, nonneg, cls, monkeypatch):
    audio, image, mask, *tokens = _features()
    audio, image = (audio - 1, image + 1) if nonneg else (audio, image)
    arguments = audio, image, mask, aggregation, heads, nonneg, *(tokens if cls else (None, None))
    wanted = dense.pairwise_similarity(*arguments)
    for numbers in (1, 40, 2**18):
        monkeypatch.setattr(inference_cpu, "TILE_NUMBERS", numbers)
        assert torch.allclose(fused.pairwise_similarity(*arguments), wanted, atol=1e-5)
    assert wanted.std() > 0.01


def test_a_step_that_is_masked_out_does_not_matter_and_half_precision_is_scored_in_float32():
    audio, image, mask, *_ = _features()
    changed = torch.where(mask[:, None, None], audio, 1e3)
    assert torch.equal(fused.similarity_per_head(audio, image, mask), fused.similarity_per_head(changed, image, mask))
    half = fused.similarity_per_head(audio.bfloat16(), image.bfloat16(), mask)
    assert half.dtype == torch.float32 and torch.allclose(
        half, dense.similarity_per_head(audio.bfloat16().float(), image.bfloat16().float(), mask), atol=1e-5
    )


def _threads_of_products():
    """Of MKL, which counts them for the whole process; where it is not there, torch's own."""
    found = re.search(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
    return int(found[1]) if found else torch.get_num_threads()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_every_mode_and_number_of_threads_gives_the_same_bits_and_the_threads_are_given_back(mode):
    audio, image, mask, *_ = _features()
    alone = fused.similarity_per_head(audio, image, mask)
    torch.set_num_threads(3)
    try:
        with mode():
            assert torch.equal(fused.similarity_per_head(audio, image, mask), alone)
        assert torch.get_num_threads() == 3 and _threads_of_products() == 3
    finally:
        torch.set_num_threads(1)


def test_only_what_wants_no_gradient_is_scored_this_way():
    audio, image, mask, *_ = _features()
    cells, learned = image.flatten(3), audio.clone().requires_grad_()
    assert inference_cpu.is_applicable(audio, cells, None, "misa") and not inference_cpu.is_applicable(
        audio, cells, None, "paired"
    )
    assert not inference_cpu.is_applicable(learned, cells, None, "misa") and not inference_cpu.is_applicable(
        audio, cells, torch.zeros(A, V, K, requires_grad=True), "misa"
    )
    with torch.no_grad():
        assert inference_cpu.is_applicable(learned, cells, None, "misa")
    (gradient,) = torch.autograd.grad(fused.similarity_per_head(learned, image, mask).sum(), learned)
    assert gradient.abs().sum() > 0
    assert torch.allclose(
        fused.similarity_per_head(learned, image, mask).detach(),
        fused.similarity_per_head(audio, image, mask),
        atol=1e-5,
    )
