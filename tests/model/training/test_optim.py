"""Phases, parameter groups and learning rates."""

import pytest
import torch
from tiny_training import backward, tiny_config, tiny_model

from configs.load import load
from configs.schema import OptimConfig, TrainConfig
from model.training.optim import build_optimizer, freeze_for_phase, learning_rate, remaining_phases, set_learning_rate


def test_run_has_two_phases_and_resumes_in_either():
    assert [tuple(p) for p in remaining_phases(0, 3, 10)] == [("projections", 0, 0, 3), ("full", 3, 3, 10)]
    assert [tuple(p) for p in remaining_phases(2, 3, 10)] == [("projections", 0, 2, 3), ("full", 3, 3, 10)]
    assert [tuple(p) for p in remaining_phases(3, 3, 10)] == [("full", 3, 3, 10)]
    assert [tuple(p) for p in remaining_phases(7, 0, 10)] == [("full", 0, 7, 10)]
    assert remaining_phases(10, 3, 10) == []


@pytest.mark.parametrize("phase", ["projections", "full"])
def test_exactly_the_learning_parameters_of_a_phase_get_a_gradient(phase):
    model = tiny_model(tiny_config())
    learnable = frozenset(
        n for n, p in model.named_parameters() if p.requires_grad and not n.endswith("bias")
    )  # as if the model itself had frozen these
    freeze_for_phase(model, phase, learnable)
    backward(model, 0)
    projections = {id(p) for p in model.projection_parameters()}
    for name, p in model.named_parameters():
        learns = name in learnable and (phase == "full" or id(p) in projections)
        assert (p.grad is not None and bool(p.grad.abs().sum() > 0)) == learns, name


def test_learning_rate_warms_up_then_follows_its_schedule():
    config = OptimConfig(lr=1.0, warmup_steps=4, schedule="cosine")
    assert [learning_rate(config, s, 12) for s in (0, 1, 3)] == [0.25, 0.5, 1.0]
    assert learning_rate(config, 8, 12) == pytest.approx(0.5)
    assert learning_rate(config, 12, 12) == pytest.approx(0.0)
    assert [learning_rate(OptimConfig(lr=2.0, warmup_steps=0), s, 3) for s in (0, 10**6)] == [2.0, 2.0]


def test_cosine_restarts_return_to_the_full_rate_for_any_run_length():
    config = OptimConfig(lr=1.0, warmup_steps=2, schedule="restarts", cycle_steps=4)
    rates = [learning_rate(config, s, 10) for s in range(12)]
    assert rates[:2] == [0.5, 1.0]
    cosine = [pytest.approx(x, abs=1e-6) for x in (1.0, 0.853553, 0.5, 0.146447)]
    assert rates[2:6] == cosine and rates[6:10] == cosine
    assert rates == [learning_rate(config, s, 1000) for s in range(12)]


def test_parameter_groups_have_own_rate_and_decay_and_the_first_match_counts():
    groups = (
        "{prefix: image_encoder.layers.0, lr_mult: 0.0}, {prefix: image_encoder, lr_mult: 0.1, wd_mult: 0}, "
        "{prefix: log_scale, lr_mult: 3}"
    )
    config = tiny_config(f"optim.groups=[{groups}]", "optim.name=adamw", "optim.weight_decay=0.5")
    model = tiny_model(config)
    optimizer = build_optimizer(config.optim, model)
    set_learning_rate(optimizer, 2.0)
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
def test_optimizer_has_the_class_and_values_of_the_settings(name, kind):
    optimizer = build_optimizer(
        OptimConfig(name=name, lr=0.3, betas=[0.5, 0.7], eps=0.25, weight_decay=0.125), tiny_model(tiny_config())
    )
    assert type(optimizer) is kind
    assert {(group["lr"], *group["betas"], group["eps"]) for group in optimizer.param_groups} == {(0.3, 0.5, 0.7, 0.25)}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.125}


def test_group_with_zero_rate_does_not_move_its_parameters():
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


def test_group_without_parameters_is_an_error_that_lists_modules():
    with pytest.raises(
        ValueError,
        match=r"optim\.groups\.1\.prefix=image_enc: no such parameter or module; "
        "the model has audio_encoder, .*log_scale",
    ):
        config = tiny_config("optim.groups=[{prefix: image_encoder}, {prefix: image_enc}]")
        build_optimizer(config.optim, tiny_model(config))
    with pytest.raises(ValueError, match=r"optim\.groups\.0\.lr_mult=-1"):
        load(TrainConfig, ["optim.groups=[{prefix: image_encoder, lr_mult: -1}]"])


def test_unknown_optimizer_and_schedule_are_errors():
    model = tiny_model(tiny_config())
    for key, value in (("name", "sgdd"), ("schedule", "linear")):
        with pytest.raises(ValueError, match=rf"optim\.{key}={value}: allowed are"):
            build_optimizer(OptimConfig(**{key: value}), model)
