"""Encoding pairs in chunks, and again in the backward pass, gives the same loss and gradients in less memory."""

import pytest
import torch
from tiny_batch import tiny_batch

from configs.schema import LossConfig, ModelConfig
from model import denseav
from model.build import build_denseav
from model.denseav import InputSpec
from model.training.step import forward_loss

PAIRS, SAMPLES = 6, 15_360
SETTINGS = {
    "image_encoder": "vit_tiny_patch16_224",
    "image_weights": "random",
    "lora_rank": 4,
    "embed_dim": 24,
    "num_heads": 2,
    "image_pool_size": 2,
}


def _model(dropout: float):
    torch.manual_seed(0)
    model = build_denseav(ModelConfig(**SETTINGS, lora_dropout=dropout), InputSpec(64, 0.96, 16_000)).train()
    model.audio_encoder.eval()  # batch normalization would use the statistics of each chunk
    for name, parameter in model.named_parameters():
        # Biases of the audio encoder too: with 0, silence is at the kink of each ReLU, where rounding decides.
        if "lora_B" in name or (name.startswith("audio_encoder") and name.endswith("bias")):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def _gradients(model, grad_cache_chunk_size):
    model.zero_grad()
    torch.manual_seed(5)
    output = forward_loss(
        model,
        tiny_batch(PAIRS, 64, SAMPLES),
        model.similarity_config,
        LossConfig(num_sampled_positions=20),
        3,
        grad_cache_chunk_size,
    )
    output.loss.backward()
    return output.loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _difference(one, other):
    """Relative difference of all gradients as one vector; biases that a softmax cancels have only rounding errors."""
    assert one.keys() == other.keys()
    one, other = (torch.cat([found[name].flatten() for name in sorted(found)]) for found in (one, other))
    return ((one - other).norm() / one.norm()).item()


@pytest.mark.parametrize("grad_cache_chunk_size", [1, 4, 6, 100])
def test_without_dropout_chunks_equal_the_full_batch(grad_cache_chunk_size):
    model = _model(dropout=0.0)
    (loss, full), (chunked_loss, chunked) = _gradients(model, 0), _gradients(model, grad_cache_chunk_size)
    assert chunked_loss == pytest.approx(loss, rel=1e-5)
    assert _difference(full, chunked) < 1e-5


@pytest.mark.parametrize("grad_cache_chunk_size", [1, 4])
def test_second_pass_repeats_the_dropout_of_the_first(grad_cache_chunk_size, monkeypatch):
    model = _model(dropout=0.5)
    loss, cached = _gradients(model, grad_cache_chunk_size)
    with monkeypatch.context() as patch:  # the same chunks with all activations stored
        patch.setattr(denseav, "checkpoint", lambda function, *arguments, **_: function(*arguments))
        kept_loss, kept = _gradients(model, grad_cache_chunk_size)
    assert loss == kept_loss
    assert all(torch.equal(cached[name], kept[name]) for name in kept)
    assert _difference(cached, _gradients(_model(dropout=0.0), grad_cache_chunk_size)[1]) > 0.1, "dropout has an effect"


def test_encoder_memory_does_not_grow_with_the_batch():
    model = _model(dropout=0.1)
    kept = {}
    for grad_cache_chunk_size in (0, 1):
        kept[grad_cache_chunk_size] = 0

        def count(tensor, grad_cache_chunk_size=grad_cache_chunk_size):
            kept[grad_cache_chunk_size] += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            image, audio, _ = model(
                torch.randint(256, (PAIRS, 3, 64, 64), dtype=torch.uint8),
                torch.randn(PAIRS, SAMPLES),
                torch.ones(PAIRS, SAMPLES, dtype=torch.bool),
                None,
                grad_cache_chunk_size,
            )
        del image, audio
    assert kept[1] < kept[0] / 20, kept
