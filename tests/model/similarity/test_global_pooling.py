"""Baselines that compare one vector per image with one vector per audio."""

import itertools

import pytest
import torch

from configs.schema import LossConfig, ModelConfig
from model.build import build_denseav
from model.features import AudioFeatures, ImageFeatures
from model.inputs import InputSpec
from model.similarity import dense, fused, global_pooling
from model.similarity.config import SimilarityConfig
from model.similarity.simpool import GAMMA, SimPool
from model.training.step import forward_loss

A, V, K, C, H, W, T = 3, 4, 2, 6, 3, 4, 7
INPUTS = InputSpec(image_size_px=32, clip_duration_s=1.6, sample_rate_hz=16_000)
TINY = {
    "embed_dim": 12,
    "num_heads": 1,
    "image_pool_size": 1,
    "audio_projection": "conv_attention",
    "image_weights": "random",
}
VIT = "vit_tiny_patch16_224"


def _features():
    mask = torch.rand(A, T) > 0.4
    mask[:, 2] = True
    audio = AudioFeatures(torch.randn(A, K, C, T), mask, torch.randn(A, K, C))
    return audio, ImageFeatures(torch.randn(V, K, C, H, W), torch.randn(V, K, C))


def test_mean_pooled_scores_are_cosines_of_means_over_valid_steps():
    audio, image = _features()
    scores = global_pooling.similarity_per_head(audio, image, "mean_pool")
    for a, v, k in itertools.product(range(A), range(V), range(K)):
        step = audio.dense[a, k][:, audio.mask[a]].mean(dim=1)
        cell = image.dense[v, k].flatten(1).mean(dim=1)
        assert torch.allclose(scores[a, v, k], torch.cosine_similarity(step, cell, dim=0), atol=1e-6)


def test_a_fully_masked_audio_scores_zero():
    audio, image = _features()
    masked = audio._replace(mask=torch.zeros_like(audio.mask))
    assert (global_pooling.similarity_per_head(masked, image, "mean_pool") == 0).all()


@pytest.mark.parametrize("module", [fused, dense])
@pytest.mark.parametrize("aggregation", global_pooling.GLOBAL_AGGREGATIONS)
def test_fused_and_dense_scores_support_the_baselines(module, aggregation):
    audio, image = _features()
    by_head = module.similarity_per_head(audio, image, SimilarityConfig(aggregation))
    assert torch.equal(by_head, global_pooling.similarity_per_head(audio, image, aggregation))
    for head_aggregation, expected in (
        ("sum", by_head.sum(-1)),
        ("max", by_head.amax(-1)),
        ("max_elementwise", by_head.amax(-1)),
    ):
        config = SimilarityConfig(aggregation, head_aggregation)
        assert torch.equal(module.pairwise_similarity(audio, image, config), expected)


def test_simpool_agrees_with_a_slow_loop_and_ignores_masked_out_steps():
    pool = SimPool(C).double()
    cells = torch.randn(A, T, C, dtype=torch.float64)
    mask = torch.rand(A, T) > 0.4
    mask[:, 1] = True
    pooled = pool(cells, mask)
    for a in range(A):
        valid = [pool.norm(cells[a, t]) for t in range(T) if mask[a, t]]
        query = pool.query.weight @ (sum(cells[a, t] for t in range(T) if mask[a, t]) / len(valid))
        weights = torch.stack([query @ (pool.key.weight @ cell) / C**0.5 for cell in valid]).softmax(dim=0)
        lowest = min(cell.min() for cell in valid)
        expected = sum(
            w * (cell - lowest).clamp(min=1e-6) ** GAMMA for w, cell in zip(weights, valid, strict=True)
        ) ** (1 / GAMMA)
        assert torch.allclose(pooled[a], expected, atol=1e-5)
    assert torch.equal(pool(torch.where(mask[..., None], cells, 9 * cells), mask), pooled)
    assert (pooled >= 0).all() and torch.allclose(pool(cells), pool(cells, torch.ones_like(mask)))


class _Pairs:
    def __init__(self, pairs=3):
        samples = round(INPUTS.clip_duration_s * INPUTS.sample_rate_hz)
        self.frames = torch.randint(0, 256, (pairs, 3, 32, 32), dtype=torch.uint8)
        self.audio = 0.1 * torch.randn(pairs, samples)
        self.audio_mask = torch.ones(pairs, samples, dtype=torch.bool)
        self.audio_positive_weight = torch.ones(pairs, samples)
        self.image_weight = torch.ones(pairs, 32, 32)
        self.source = torch.zeros(pairs, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "encoder"),
    [
        ({"similarity_aggregation": "mean_pool"}, "tiny"),
        ({"similarity_aggregation": "simpool"}, "tiny"),
        ({"similarity_aggregation": "cls_token"}, VIT),
        ({"add_cls_similarity": True, "num_heads": 2}, VIT),
    ],
)
def test_every_trainable_parameter_gets_a_gradient(changes, encoder):
    torch.manual_seed(0)
    model = build_denseav(ModelConfig(**TINY | changes, image_encoder=encoder), INPUTS).train()
    forward_loss(model, _Pairs(), model.similarity_config, LossConfig(num_sampled_positions=5), seed=1).loss.backward()
    without_gradient = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)
    ]
    assert [name for name in without_gradient if not name.endswith("key.bias")] == []
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    assert model.image_projection.cls_proj.weight.requires_grad == (
        changes != {"similarity_aggregation": "mean_pool"} and "simpool" not in changes.values()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"similarity_aggregation": "cls_token"},
            "model.add_cls_similarity=false with model.similarity_aggregation=cls_token compares class tokens: use an "
            "image encoder that has one",
        ),
        (
            {"add_cls_similarity": True},
            "model.add_cls_similarity=true with model.similarity_aggregation=misa compares class tokens",
        ),
        (
            {"add_cls_similarity": True, "image_encoder": VIT, "audio_projection": "linear"},
            "and model.audio_projection=conv_attention",
        ),
        (
            {"num_heads": 3, "similarity_aggregation": "mean_pool"},
            "model.num_heads=3: model.similarity_aggregation=mean_pool compares global vectors; allowed is 1",
        ),
        (
            {"add_cls_similarity": True, "num_heads": 1, "similarity_aggregation": "mean_pool"},
            "model.add_cls_similarity=true adds to every cell, and model.similarity_aggregation=mean_pool has none",
        ),
        ({"similarity_aggregation": "mean"}, "allowed are misa, mima, sisa, paired, mean_pool, cls_token, simpool"),
    ],
)
def test_settings_without_class_tokens_or_cells_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        build_denseav(ModelConfig(**TINY | changes), INPUTS)
