"""What learns, how fast: phases, groups of parameters, learning rates."""

import pytest
import torch
from tiny_training import backward, tiny_config, tiny_model

from configs.load import load
from configs.schema import OptimConfig, TrainConfig
from model.training.optim import build_optimizer, freeze_for_phase, learning_rate, remaining_phases, set_learning_rate


def test_the_run_splits_into_two_phases_and_resumes_on_both_sides():
    assert [tuple(p) for p in remaining_phases(0, 3, 10)] == [("projections", 0, 0, 3), ("full", 3, 3, 10)]
    assert [tuple(p) for p in remaining_phases(2, 3, 10)] == [("projections", 0, 2, 3), ("full", 3, 3, 10)]
    assert [tuple(p) for p in remaining_phases(3, 3, 10)] == [("full", 3, 3, 10)]
    assert [tuple(p) for p in remaining_phases(7, 0, 10)] == [("full", 0, 7, 10)]
    assert remaining_phases(10, 3, 10) == []


@pytest.mark.parametrize("phase", ["projections", "full"])
def test_in_each_phase_every_learning_parameter_gets_a_gradient_and_no_other(phase):
    model = tiny_model(tiny_config())
    learnable = frozenset(
        n for n, p in model.named_parameters() if p.requires_grad and not n.endswith("bias")
    )  # as if the model froze these on its own
    freeze_for_phase(model, phase, learnable)
    backward(model, 0)
    projections = {id(p) for p in model.projection_parameters()}
    for name, p in model.named_parameters():
        learns = name in learnable and (phase == "full" or id(p) in projections)
        assert (p.grad is not None and bool(p.grad.abs().sum() > 0)) == learns, name


def test_the_learning_rate_warms_up_then_follows_its_schedule():
    config = OptimConfig(lr=1.0, warmup_steps=4, schedule="cosine")
    assert [learning_rate(config, s, 12) for s in (0, 1, 3)] == [0.25, 0.5, 1.0]
    assert learning_rate(config, 8, 12) == pytest.approx(0.5)
    assert learning_rate(config, 12, 12) == pytest.approx(0.0)
    assert [learning_rate(OptimConfig(lr=2.0, warmup_steps=0), s, 3) for s in (0, 10**6)] == [2.0, 2.0]


def test_cosines_with_restarts_begin_anew_at_the_full_rate_and_know_no_end():
    config = OptimConfig(lr=1.0, warmup_steps=2, schedule="restarts", cycle_steps=4)
    rates = [learning_rate(config, s, 10) for s in range(12)]
    assert rates[:2] == [0.5, 1.0]
    cosine = [pytest.approx(x, abs=1e-6) for x in (1.0, 0.853553, 0.5, 0.146447)]
    assert rates[2:6] == cosine and rates[6:10] == cosine
    assert rates == [learning_rate(config, s, 1000) for s in range(12)]


def test_groups_of_parameters_have_rates_and_decay_of_their_own_and_the_first_that_matches_counts():
    groups = "{prefix: image_encoder.layers.0, lr_mult: 0.0}, {prefix: image_encoder, lr_mult: 0.1, wd_mult: 0}, {prefix: log_scale, lr_mult: 3}"
    config = tiny_config(f"optim.groups=[{groups}]", "optim.name=adamw", "optim.weight_decay=0.5")
    model = tiny_model(config)
    optimizer = build_optimizer(config.optim, model)
    assert set_learning_rate(optimizer, 2.0) == 2.0
    names = {id(p): n for n, p in model.named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    assert found.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = (
                0.0
                if name.startswith("image_encoder.layers.0.")
                else 0.1
                if name.startswith("image_encoder.")
                else 3
                if name == "log_scale"
                else 1
            )
            decays = parameter.ndim > 1 and not (
                name.startswith("image_encoder.") and not name.startswith("image_encoder.layers.0.")
            )
            assert found[name] == (2.0 * factor, 0.5 * decays), name


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_optimiser_is_of_the_kind_and_has_the_numbers_that_the_settings_say(name, kind):
    optimizer = build_optimizer(
        OptimConfig(name=name, lr=0.3, betas=[0.5, 0.7], eps=0.25, weight_decay=0.125), tiny_model(tiny_config())
    )
    assert type(optimizer) is kind
    assert {(group["lr"], *group["betas"], group["eps"]) for group in optimizer.param_groups} == {(0.3, 0.5, 0.7, 0.25)}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.125}


def test_a_group_moves_its_parameters_at_its_own_rate():
    config = tiny_config("optim.groups=[{prefix: image_encoder, lr_mult: 0}]")
    model = tiny_model(config)
    optimizer = build_optimizer(config.optim, model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    backward(model, 0)
    set_learning_rate(optimizer, 1e-2)
    optimizer.step()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert torch.equal(p, before[name]) == name.startswith("image_encoder."), name


def test_a_group_that_matches_nothing_is_refused_with_what_there_is():
    with pytest.raises(
        ValueError,
        match=r"optim\.groups\.1\.match=image_enc: the model has no such parameter; it has audio_encoder, .*log_scale",
    ):
        config = tiny_config("optim.groups=[{prefix: image_encoder}, {prefix: image_enc}]")
        build_optimizer(config.optim, tiny_model(config))
    with pytest.raises(ValueError, match=r"optim\.groups\.0\.lr_mult=-1"):
        load(TrainConfig, ["optim.groups=[{prefix: image_encoder, lr_mult: -1}]"])


def test_unknown_optimiser_and_schedule_are_refused():
    model = tiny_model(tiny_config())
    for key, value in (("name", "sgdd"), ("schedule", "linear")):
        with pytest.raises(ValueError, match=rf"optim\.{key}={value}: allowed are"):
            build_optimizer(OptimConfig(**{key: value}), model)
