"""The objective: which terms it computes, how it weighs them, which settings reach them."""

import dataclasses
import itertools

import pytest
import torch

from model.features import AudioFeatures, ImageFeatures, map_tensors
from model.losses import contrastive, regularizers
from model.losses.contrastive import ContrastiveConfig, LogitScale
from model.losses.inputs import LossInputs
from model.losses.objective import REGULARIZERS, compute_loss_terms, weighted_sum
from model.similarity import dense
from model.similarity.config import SimilarityConfig

B, K, C, H, W, T = 4, 2, 5, 3, 2, 6
ALL = {name: 0.1 * (n + 1) for n, name in enumerate(REGULARIZERS)}


def _inputs(heads=K, w=-0.5, dtype=torch.float64, bias=None, **changes):
    mask = torch.rand(B, T) > 0.4
    mask[:, 0], mask[:, 1] = True, False
    inputs = LossInputs(
        image=ImageFeatures(torch.randn(B, heads, C, H, W, dtype=dtype, requires_grad=True)),
        audio=AudioFeatures(torch.randn(B, heads, C, T, dtype=dtype, requires_grad=True), mask),
        logit_scale=LogitScale(torch.tensor(w, dtype=dtype, requires_grad=True), bias),
        audio_positive_weight=torch.rand(B, T, dtype=dtype),
        image_weight=torch.rand(B, H, W, dtype=dtype),
        source=torch.tensor([0, 1, 1, 0]),
    )
    return dataclasses.replace(inputs, **changes)


def _with_cls(inputs):
    audio_cls, image_cls = torch.randn(2, B, K, C, dtype=torch.float64)
    return dataclasses.replace(
        inputs, audio=inputs.audio._replace(cls=audio_cls), image=inputs.image._replace(cls=image_cls)
    )


def _with_audio(inputs, **changes):
    return dataclasses.replace(inputs, audio=inputs.audio._replace(**changes))


def _terms(inputs, weights=ALL, config=None, positions=3, seed=0):
    """Terms of a copy of the inputs, with a new generator and nothing computed yet."""
    generator = torch.Generator().manual_seed(seed)
    inputs = dataclasses.replace(inputs, num_sampled_positions=positions, generator=generator)
    return compute_loss_terms(inputs, config or ContrastiveConfig(), weights)


def test_terms_carry_the_names_of_their_settings():
    terms = _terms(_inputs())
    assert list(terms) == ["info_nce", *REGULARIZERS]
    assert all(term.shape == () for term in terms.values())


def test_terms_without_weight_are_not_computed():
    assert list(_terms(_inputs(), {"tv": 0.5, "silence": 0.0})) == ["info_nce", "tv"]
    assert list(_terms(_inputs(heads=1), {"head_specialization": 0.5})) == ["info_nce"]
    assert list(_terms(_inputs(), {})) == ["info_nce"]


def test_the_contrastive_term_alone_computes_no_volume():
    inputs = _inputs()
    compute_loss_terms(inputs, ContrastiveConfig(), {})
    assert "scores" in vars(inputs) and "volume" not in vars(inputs)


def test_the_total_weighs_each_term_once():
    terms = _terms(_inputs())
    assert weighted_sum(terms, ALL).item() == pytest.approx(
        terms["info_nce"].item() + sum(ALL[name] * terms[name].item() for name in REGULARIZERS)
    )


def test_similarity_settings_reach_the_scores_and_the_volume():
    config = SimilarityConfig("mima", "sum", nonneg=True, use_cls=True)
    x = _with_cls(_inputs(similarity=config))
    terms = _terms(x, {"tv": 1.0})
    scores = dense.pairwise_similarity(x.audio, x.image, config)
    assert torch.allclose(terms["info_nce"], contrastive.info_nce(contrastive.to_logits(scores, x.logit_scale)))
    volume = dense.paired_similarity(x.audio, x.image, True, True)
    assert torch.allclose(x.volume, volume)
    assert torch.allclose(terms["tv"], volume.diff(dim=-1).square().mean())
    assert torch.allclose(terms["tv"], regularizers.safe_divide(*regularizers.tv(x)))


def test_class_tokens_that_scores_do_not_use_change_nothing():
    x = _inputs()
    assert _terms(x) == _terms(_with_cls(x))


@pytest.mark.parametrize("name", contrastive.CONTRASTIVE_LOSSES)
def test_every_contrastive_objective_is_computed_under_its_name(name):
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True) if name in contrastive.WITH_BIAS else None
    x = _inputs(bias=bias)
    terms = _terms(x, {}, ContrastiveConfig(name))
    leaves = [x.audio.dense, x.image.dense, x.logit_scale.log_scale, *([] if bias is None else [bias])]
    assert list(terms) == [name]
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(terms[name], leaves))


@pytest.mark.parametrize("name", contrastive.CONTRASTIVE_LOSSES)
def test_pairs_of_one_group_are_positives_of_each_other(name):
    bias = torch.tensor(-1.0, dtype=torch.float64) if name in contrastive.WITH_BIAS else None
    x, config = _inputs(bias=bias), ContrastiveConfig(name)
    grouped = dataclasses.replace(x, group=torch.tensor([7, 3, 7, 5]))
    positives = torch.eye(B, dtype=torch.bool)
    positives[0, 2] = positives[2, 0] = True
    logits = contrastive.to_logits(dense.pairwise_similarity(x.audio, x.image, SimilarityConfig()), x.logit_scale)
    loss = _terms(grouped, {}, config)[name]
    assert torch.allclose(loss, contrastive.CONTRASTIVE_LOSSES[name](logits, positives, config))
    assert not torch.allclose(loss, _terms(x, {}, config)[name])
    alone = dataclasses.replace(x, group=torch.arange(B))
    assert torch.allclose(_terms(alone, {}, config)[name], _terms(x, {}, config)[name])
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss, [x.audio.dense, x.image.dense]))


def test_all_positions_are_used_where_there_are_few():
    x = _inputs()
    expected = sum(
        min(0.0, (x.audio.dense[a, k, :, t] * x.image.dense[v, k, :, h, w]).sum().item()) ** 2
        for a, v, k, h, w, t in itertools.product(*map(range, (B, B, K, H, W, T)))
    )
    assert _terms(x, {"nonneg_pressure": 1.0}, positions=10_000)["nonneg_pressure"].item() == pytest.approx(
        expected / (B * B * K * H * W * T)
    )


def test_silence_samples_masked_out_steps_only_and_is_zero_where_there_are_too_few():
    x, weights = _inputs(), {"silence": 1.0}
    mask, steps = x.audio.mask, x.audio.dense
    silent = int((~mask).sum())
    louder = _with_audio(x, dense=torch.where(mask[:, None, None], 100 * steps, steps))
    assert _terms(x, weights)["silence"] == _terms(louder, weights)["silence"] > 0
    assert _terms(x, weights, positions=silent)["silence"] > 0
    assert _terms(x, weights, positions=silent + 1)["silence"] == 0
    assert _terms(_with_audio(x, mask=torch.ones_like(mask)), weights, positions=1)["silence"] == 0


@pytest.mark.parametrize("term", ["nonneg_pressure", "silence"])
def test_sampled_positions_depend_on_the_generator_only(term):
    x = _inputs()
    x = _with_audio(x, mask=torch.zeros_like(x.audio.mask).index_fill(1, torch.tensor(0), True))
    torch.manual_seed(1)
    first = _terms(x, {term: 1.0}, seed=7)[term]
    torch.manual_seed(2)
    assert torch.equal(first, _terms(x, {term: 1.0}, seed=7)[term])
    assert not torch.equal(first, _terms(x, {term: 1.0}, seed=8)[term])


def test_gradients_of_features_and_scale_equal_finite_differences():
    x = _inputs()

    def loss(audio, image, log_scale):
        changed = dataclasses.replace(
            _with_audio(x, dense=audio), image=ImageFeatures(image), logit_scale=LogitScale(log_scale)
        )
        return weighted_sum(_terms(changed), ALL)

    assert torch.autograd.gradcheck(loss, (x.audio.dense, x.image.dense, x.logit_scale.log_scale))


def test_the_order_of_the_batch_does_not_matter():
    x, order = _inputs(), torch.tensor([2, 0, 3, 1])
    shuffled = dataclasses.replace(
        x,
        image=map_tensors(x.image, lambda tensor: tensor[order]),
        audio=map_tensors(x.audio, lambda tensor: tensor[order]),
        audio_positive_weight=x.audio_positive_weight[order],
        image_weight=x.image_weight[order],
        source=x.source[order],
    )
    weights = {name: weight for name, weight in ALL.items() if name not in ("nonneg_pressure", "silence")}
    one, other = _terms(x, weights), _terms(shuffled, weights)
    for name in one:
        assert torch.allclose(one[name], other[name]), name


@pytest.mark.parametrize(
    ("changes", "config", "weights", "message"),
    [
        (
            {"similarity": SimilarityConfig(use_cls=True)},
            ContrastiveConfig(),
            {},
            r"model\.add_cls_similarity=true, .* no class token",
        ),
        (
            {"similarity": SimilarityConfig("cls_token")},
            ContrastiveConfig(),
            {},
            r"model\.similarity_aggregation=cls_token: .* no class token",
        ),
        (
            {"heads": 3},
            ContrastiveConfig(),
            {"disentangle": 0.5},
            r"loss\.disentangle needs an even number of heads, model\.num_heads=3",
        ),
        (
            {},
            ContrastiveConfig("triplet"),
            {},
            r"loss\.objective=triplet: allowed are info_nce, cross_entropy, margin, bce, siglip",
        ),
        ({}, ContrastiveConfig("bce"), {}, r"loss\.objective=bce needs model\.logit_bias=true"),
        (
            {"bias": torch.tensor(0.0)},
            ContrastiveConfig("margin"),
            {},
            r"loss\.objective=margin is invariant to a logit bias: set model\.logit_bias=false",
        ),
    ],
)
def test_invalid_settings_are_refused_in_one_line(changes, config, weights, message):
    with pytest.raises(ValueError, match=message):
        _terms(_inputs(**changes), weights, config)
