import dataclasses
import itertools
import math

import pytest
import torch
from torch.nn import functional

from configs.command import UsageError
from configs.schema import LossConfig
from model.grounding import losses, similarity
from model.grounding.denseav import ScoreSettings
from model.grounding.losses import ObjectiveInputs, objective, total

B, K, C, H, W, T = 4, 2, 5, 3, 2, 6
TERMS = [f.name for f in dataclasses.fields(LossConfig) if f.name != "random_positions"]
ALL = {name: 0.1 * (n + 1) for n, name in enumerate(TERMS)}


def _inputs(heads=K, w=-0.5, dtype=torch.float64):
    mask = torch.rand(B, T) > 0.4
    mask[:, 0], mask[:, 1] = True, False
    return ObjectiveInputs(
        audio=torch.randn(B, heads, C, T, dtype=dtype, requires_grad=True),
        image=torch.randn(B, heads, C, H, W, dtype=dtype, requires_grad=True),
        audio_mask=mask,
        audio_positive_weight=torch.rand(B, T, dtype=dtype),
        image_weight=torch.rand(B, H, W, dtype=dtype),
        source=torch.tensor([0, 1, 1, 0]),
        log_scale=torch.tensor(w, dtype=dtype, requires_grad=True),
    )


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_info_nce_of_two_pairs_worked_out_by_hand():
    # Own pairs score 1, others 0, scale e: every row and column gives log(1 + exp(-e)).
    scores = torch.eye(2)
    assert losses.info_nce(scores, torch.tensor(1.0)).item() == pytest.approx(math.log(1 + math.exp(-math.e)))


def test_info_nce_is_the_mean_of_both_directions():
    scores = torch.tensor([[1.0, 3.0], [0.0, 2.0]])
    rows = functional.cross_entropy(scores, torch.arange(2))
    columns = functional.cross_entropy(scores.T, torch.arange(2))
    assert losses.info_nce(scores, torch.tensor(0.0)).item() == pytest.approx((rows + columns).item() / 2)


def test_the_scale_stays_between_a_hundredth_and_a_hundred():
    assert [losses.scale_of(torch.tensor(w)).item() for w in (-9.0, 0.0, 9.0)] == pytest.approx([0.01, 1.0, 100.0])


def test_with_few_positions_all_are_used_and_nonneg_pressure_agrees_with_a_slow_loop():
    x = _inputs()
    expected = sum(
        min(0.0, (x.audio[a, k, :, t] * x.image[v, k, :, h, w]).sum().item()) ** 2 for a, v, k, h, w, t in itertools.product(*map(range, (B, B, K, H, W, T)))
    )
    pressure = losses.nonneg_pressure(x.audio, x.image, 10_000, _generator())
    assert pressure.item() == pytest.approx(expected / (B * B * K * H * W * T))


def test_silence_compares_masked_out_steps_with_every_image():
    x = _inputs()
    silent = [(a, t) for a, t in itertools.product(range(B), range(T)) if not x.audio_mask[a, t]]
    expected = [
        abs((x.audio[a, k, :, t] * x.image[v, k, :, h, w]).sum().item()) for (a, t) in silent for v, k, h, w in itertools.product(*map(range, (B, K, H, W)))
    ]
    assert losses.silence(x.audio, x.image, x.audio_mask, len(silent), _generator()).item() == pytest.approx(sum(expected) / len(expected))


def test_silence_is_left_out_when_too_few_steps_are_masked_out():
    x = _inputs()
    silent = int((~x.audio_mask).sum())
    assert losses.silence(x.audio, x.image, x.audio_mask, silent + 1, _generator()) == 0
    assert losses.silence(x.audio, x.image, torch.ones_like(x.audio_mask), 1, _generator()) == 0


def test_silence_does_not_see_valid_steps():
    x = _inputs()
    louder = torch.where(x.audio_mask[:, None, None], 100 * x.audio, x.audio)
    assert losses.silence(louder, x.image, x.audio_mask, 3, _generator()) == losses.silence(x.audio, x.image, x.audio_mask, 3, _generator())


@pytest.mark.parametrize("term", [losses.nonneg_pressure, lambda audio, image, n, g: losses.silence(audio, image, torch.zeros(B, T, dtype=torch.bool), n, g)])
def test_random_positions_depend_on_the_generator_alone(term):
    x = _inputs()
    torch.manual_seed(1)
    first = term(x.audio, x.image, 4, _generator(7))
    torch.manual_seed(2)
    assert torch.equal(first, term(x.audio, x.image, 4, _generator(7)))
    assert not torch.equal(first, term(x.audio, x.image, 4, _generator(8)))


def test_terms_of_the_paired_volume_worked_out_by_hand():
    # One pair, two heads, two cells, two steps.
    volume = torch.tensor([[[1.0, 2.0], [0.0, -1.0]], [[3.0, 0.0], [2.0, 2.0]]]).view(1, 2, 1, 2, 2)
    valid = torch.tensor([[True, True]])
    assert losses.tv(volume).item() == pytest.approx((1 + 1 + 9 + 0) / 4)
    assert losses.head_specialization(volume).item() == pytest.approx((3 + 0 + 0 + 2) / 4)
    # Half of step 1 is spliced: its four squares are 4, 1, 0, 4.
    assert losses.negative_audio(volume, valid, torch.tensor([[1.0, 0.5]])).item() == pytest.approx(9 / 4)
    # A masked-out step does not count, spliced or not.
    assert losses.negative_audio(volume, torch.tensor([[True, False]]), torch.tensor([[0.0, 0.0]])).item() == pytest.approx((1 + 0 + 9 + 4) / 4)
    # Cell 0 is all another's (m = 1), cell 1 half (m^2 = 1/4): squares 1 + 4 + 9 + 0 and 0 + 1 + 4 + 4.
    assert losses.image_mixup(volume, torch.tensor([[[0.0, 0.5]]])).item() == pytest.approx((14 + 9 / 4) / (4 * 1 + 4 * 0.5))
    # Source 0 owns head 0, so its pair presses on head 1, and the other way round.
    assert losses.disentangle(volume, torch.tensor([0])).item() == pytest.approx((9 + 0 + 4 + 4) / 4)
    assert losses.disentangle(volume, torch.tensor([1])).item() == pytest.approx((1 + 4 + 0 + 1) / 4)


def test_a_batch_without_splices_or_mixed_images_gives_zero_not_nan():
    volume, valid = torch.randn(2, 1, 2, 2, 3), torch.ones(2, 3, dtype=torch.bool)
    assert losses.negative_audio(volume, valid, torch.ones(2, 3)) == 0
    assert losses.image_mixup(volume, torch.ones(2, 2, 2)) == 0


def test_the_calibration_floor_presses_below_one_only():
    assert losses.calibration_floor(torch.tensor(0.3)) == 0
    assert losses.calibration_floor(torch.tensor(-0.7)).item() == pytest.approx(0.49)


def test_four_heads_compare_in_six_pairs_and_split_into_halves():
    volume = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1, 1)
    assert losses.head_specialization(volume).item() == pytest.approx((2 + 3 + 4 + 6 + 8 + 12) / 6)
    assert losses.disentangle(volume, torch.tensor([0])).item() == pytest.approx((3 + 4) ** 2)


def test_the_objective_gives_each_term_by_the_name_of_its_setting():
    terms = objective(_inputs(), ScoreSettings(), ALL, 3, _generator())
    assert list(terms) == ["info_nce", *TERMS]
    assert all(term.shape == () for term in terms.values())


def test_terms_without_weight_are_not_computed():
    assert list(objective(_inputs(), ScoreSettings(), {"tv": 0.5, "silence": 0.0}, 3, _generator())) == ["info_nce", "tv"]
    assert list(objective(_inputs(heads=1), ScoreSettings(), {"head_specialization": 0.5}, 3, _generator())) == ["info_nce"]


def test_the_total_weighs_each_term_once():
    terms = objective(_inputs(), ScoreSettings(), ALL, 3, _generator())
    assert total(terms, ALL).item() == pytest.approx(terms["info_nce"].item() + sum(ALL[name] * terms[name].item() for name in TERMS))


def test_the_score_settings_reach_the_scores_and_the_volume():
    x = _inputs()._replace(audio_cls=torch.randn(B, K, C, dtype=torch.float64), image_cls=torch.randn(B, K, C, dtype=torch.float64))
    settings = ScoreSettings("mima", "sum", nonneg=True, use_cls=True)
    terms = objective(x, settings, {"tv": 1.0}, 3, _generator())
    cls = (x.audio_cls, x.image_cls)
    scores = similarity.all_pairs_scores(x.audio, x.image, x.audio_mask, "mima", "sum", True, *cls)
    assert torch.allclose(terms["info_nce"], losses.info_nce(scores, x.log_scale))
    assert torch.allclose(terms["tv"], losses.tv(similarity.paired_volume(x.audio, x.image, x.audio_mask, True, *cls)))


def test_features_and_scale_get_the_gradient_of_finite_differences():
    x = _inputs()

    def loss(audio, image, log_scale):
        return total(objective(x._replace(audio=audio, image=image, log_scale=log_scale), ScoreSettings(), ALL, 3, _generator()), ALL)

    assert torch.autograd.gradcheck(loss, (x.audio, x.image, x.log_scale))


def test_the_order_of_the_batch_does_not_matter():
    x, order = _inputs(), torch.tensor([2, 0, 3, 1])
    shuffled = ObjectiveInputs(*[value[order] if value is not None and value.ndim else value for value in x])
    weights = {name: weight for name, weight in ALL.items() if name not in ("nonneg_pressure", "silence")}
    one, other = (objective(inputs, ScoreSettings(), weights, 3, _generator()) for inputs in (x, shuffled))
    for name in one:
        assert torch.allclose(one[name], other[name]), name


def test_impossible_settings_are_refused_in_one_line():
    with pytest.raises(UsageError, match=r"model\.use_cls=true: .* no class token"):
        objective(_inputs(), ScoreSettings(use_cls=True), {}, 3, _generator())
    with pytest.raises(UsageError, match=r"loss\.disentangle=0\.5 needs an even number of heads, model\.heads=3"):
        objective(_inputs(heads=3), ScoreSettings(), {"disentangle": 0.5}, 3, _generator())
