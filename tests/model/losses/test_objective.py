import itertools

import pytest
import torch

from model.denseav import SimilarityConfig
from model.losses import contrastive, regularizers
from model.losses.contrastive import ContrastiveConfig, LogitScale
from model.losses.objective import REGULARIZERS, LossInputs, compute_loss_terms, weighted_sum
from model.similarity import dense

B, K, C, H, W, T = 4, 2, 5, 3, 2, 6
ALL = {name: 0.1 * (n + 1) for n, name in enumerate(REGULARIZERS)}


def _inputs(heads=K, w=-0.5, dtype=torch.float64, bias=None):
    mask = torch.rand(B, T) > 0.4
    mask[:, 0], mask[:, 1] = True, False
    return LossInputs(
        audio=torch.randn(B, heads, C, T, dtype=dtype, requires_grad=True),
        image=torch.randn(B, heads, C, H, W, dtype=dtype, requires_grad=True),
        audio_mask=mask,
        audio_positive_weight=torch.rand(B, T, dtype=dtype),
        image_weight=torch.rand(B, H, W, dtype=dtype),
        source=torch.tensor([0, 1, 1, 0]),
        calibration=LogitScale(torch.tensor(w, dtype=dtype, requires_grad=True), bias),
    )


def _terms(inputs, weights=ALL, settings=None, chosen=None, positions=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return compute_loss_terms(
        inputs, settings or SimilarityConfig(), chosen or ContrastiveConfig(), weights, positions, generator
    ).terms


def test_the_objective_gives_each_term_by_the_name_of_its_setting():
    terms = _terms(_inputs())
    assert list(terms) == ["info_nce", *REGULARIZERS]
    assert all(term.shape == () for term in terms.values())


def test_terms_without_weight_are_not_computed():
    assert list(_terms(_inputs(), {"tv": 0.5, "silence": 0.0})) == ["info_nce", "tv"]
    assert list(_terms(_inputs(heads=1), {"head_specialization": 0.5})) == ["info_nce"]
    assert list(_terms(_inputs(), {})) == ["info_nce"]


def test_the_total_weighs_each_term_once():
    terms = _terms(_inputs())
    assert weighted_sum(terms, ALL).item() == pytest.approx(
        terms["info_nce"].item() + sum(ALL[name] * terms[name].item() for name in REGULARIZERS)
    )


def test_the_score_settings_reach_the_scores_and_the_volume():
    x = _inputs()._replace(
        audio_cls=torch.randn(B, K, C, dtype=torch.float64), image_cls=torch.randn(B, K, C, dtype=torch.float64)
    )
    terms = _terms(x, {"tv": 1.0}, SimilarityConfig("mima", "sum", nonneg=True, use_cls=True))
    cls = (x.audio_cls, x.image_cls)
    scores = dense.pairwise_similarity(x.audio, x.image, x.audio_mask, "mima", "sum", True, *cls)
    assert torch.allclose(terms["info_nce"], contrastive.info_nce(contrastive.to_logits(scores, x.calibration)))
    assert torch.allclose(
        terms["tv"], regularizers.tv(dense.paired_similarity(x.audio, x.image, x.audio_mask, True, *cls)).value
    )


def test_class_tokens_that_scores_do_without_change_nothing():
    x = _inputs()
    cls = torch.randn(2, B, K, C, dtype=torch.float64)
    assert _terms(x) == _terms(x._replace(audio_cls=cls[0], image_cls=cls[1]))


@pytest.mark.parametrize("name", contrastive.CONTRASTIVE_LOSSES)
def test_every_contrastive_objective_is_computed_under_its_name(name):
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True) if name in contrastive.WITH_BIAS else None
    x = _inputs(bias=bias)
    terms = _terms(x, {}, chosen=ContrastiveConfig(name))
    wanted = [x.audio, x.image, x.calibration.log_scale, *([] if bias is None else [bias])]
    assert list(terms) == [name]
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(terms[name], wanted))


def test_with_few_positions_all_are_used():
    x = _inputs()
    expected = sum(
        min(0.0, (x.audio[a, k, :, t] * x.image[v, k, :, h, w]).sum().item()) ** 2
        for a, v, k, h, w, t in itertools.product(*map(range, (B, B, K, H, W, T)))
    )
    assert _terms(x, {"nonneg_pressure": 1.0}, positions=10_000)["nonneg_pressure"].item() == pytest.approx(
        expected / (B * B * K * H * W * T)
    )


def test_silence_draws_masked_out_steps_alone_and_is_left_out_when_there_are_too_few():
    x, weights = _inputs(), {"silence": 1.0}
    silent = int((~x.audio_mask).sum())
    louder = x._replace(audio=torch.where(x.audio_mask[:, None, None], 100 * x.audio, x.audio))
    assert _terms(x, weights)["silence"] == _terms(louder, weights)["silence"] > 0
    assert _terms(x, weights, positions=silent)["silence"] > 0
    assert _terms(x, weights, positions=silent + 1)["silence"] == 0
    assert _terms(x._replace(audio_mask=torch.ones_like(x.audio_mask)), weights, positions=1)["silence"] == 0


@pytest.mark.parametrize("term", ["nonneg_pressure", "silence"])
def test_random_positions_depend_on_the_generator_alone(term):
    x = _inputs()
    x = x._replace(audio_mask=torch.zeros_like(x.audio_mask).index_fill(1, torch.tensor(0), True))
    torch.manual_seed(1)
    first = _terms(x, {term: 1.0}, seed=7)[term]
    torch.manual_seed(2)
    assert torch.equal(first, _terms(x, {term: 1.0}, seed=7)[term])
    assert not torch.equal(first, _terms(x, {term: 1.0}, seed=8)[term])


def test_features_and_scale_get_the_gradient_of_finite_differences():
    x = _inputs()

    def loss(audio, image, log_scale):
        return weighted_sum(_terms(x._replace(audio=audio, image=image, calibration=LogitScale(log_scale))), ALL)

    assert torch.autograd.gradcheck(loss, (x.audio, x.image, x.calibration.log_scale))


def test_the_order_of_the_batch_does_not_matter():
    x, order = _inputs(), torch.tensor([2, 0, 3, 1])
    shuffled = LossInputs(*[value[order] if isinstance(value, torch.Tensor) else value for value in x])
    weights = {name: weight for name, weight in ALL.items() if name not in ("nonneg_pressure", "silence")}
    one, other = _terms(x, weights), _terms(shuffled, weights)
    for name in one:
        assert torch.allclose(one[name], other[name]), name


@pytest.mark.parametrize(
    ("settings", "chosen", "weights", "heads", "bias", "told"),
    [
        (
            SimilarityConfig(use_cls=True),
            ContrastiveConfig(),
            {},
            2,
            None,
            r"model\.add_cls_similarity=true, .* no class token",
        ),
        (
            SimilarityConfig("cls_token"),
            ContrastiveConfig(),
            {},
            2,
            None,
            r"model\.similarity_aggregation=cls_token: .* no class token",
        ),
        (
            SimilarityConfig(),
            ContrastiveConfig(),
            {"disentangle": 0.5},
            3,
            None,
            r"loss\.disentangle=0\.5 needs an even number of heads, model\.num_heads=3",
        ),
        (
            SimilarityConfig(),
            ContrastiveConfig("triplet"),
            {},
            2,
            None,
            r"loss\.objective=triplet: allowed are info_nce, cross_entropy, margin, bce, siglip",
        ),
        (
            SimilarityConfig(),
            ContrastiveConfig("bce"),
            {},
            2,
            None,
            r"loss\.objective=bce needs model\.logit_bias=true",
        ),
        (
            SimilarityConfig(),
            ContrastiveConfig("margin"),
            {},
            2,
            torch.tensor(0.0),
            r"loss\.objective=margin is blind to a bias",
        ),
    ],
)
def test_impossible_settings_are_refused_in_one_line(settings, chosen, weights, heads, bias, told):
    with pytest.raises(ValueError, match=told):
        _terms(_inputs(heads=heads, bias=bias), weights, settings, chosen)
