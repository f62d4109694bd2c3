"""The exponential moving average of the weights."""

import pytest
import torch
from tiny_training import step, tiny_config, tiny_state

from model.training.ema import ModelEma


def test_average_agrees_with_a_slow_loop_and_its_decay_warms_up():
    layer = torch.nn.Linear(1, 1, bias=False)
    ema, expected = ModelEma(layer, 0.9), float(layer.weight.detach())
    for number in range(1, 200):
        with torch.no_grad():
            layer.weight.fill_(number)
        ema.update(layer, number)
        keep = min(0.9, (1 + number) / (10 + number))
        expected = keep * expected + (1 - keep) * number
        assert float(ema.weights(layer)["weight"]) == pytest.approx(expected, rel=1e-5)


def test_only_learning_parameters_are_averaged():
    state = tiny_state(tiny_config("optim.ema_decay=0.99", "optim.lr=0.01"))
    frozen = {name for name, p in state.model.named_parameters() if not p.requires_grad}
    for number in range(3):
        step(state, number)
    mean, own = state.ema.weights(state.model), state.model.state_dict()
    assert mean.keys() == own.keys()
    learning = {name for name, _ in state.model.named_parameters()} - frozen
    assert {name for name in own if not torch.equal(mean[name], own[name])} == learning


def test_average_is_swapped_into_the_model_and_back():
    state = tiny_state(tiny_config("optim.ema_decay=0.5", "optim.lr=0.01"))
    for number in range(3):
        step(state, number)
    own = {name: value.clone() for name, value in state.model.state_dict().items()}
    mean = {name: value.clone() for name, value in state.ema.weights(state.model).items()}
    with pytest.raises(ZeroDivisionError), state.ema.swapped_into(state.model):
        assert all(torch.equal(value, mean[name]) for name, value in state.model.state_dict().items())
        1 / 0  # noqa: B018
    assert all(torch.equal(value, own[name]) for name, value in state.model.state_dict().items())
    assert all(torch.equal(value, mean[name]) for name, value in state.ema.weights(state.model).items())
