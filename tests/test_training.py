"""The parts of the trainer that are too small for a file of their own: refused models, losses that are no numbers, history, seeds."""

import json

import pytest
from small_training import INPUTS

from configs.command import UsageError
from configs.schema import ModelConfig
from model.build import build_denseav
from model.training.step import seed_of
from model.training.tracking import History, read_history


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, r"model\.heads=3 must divide model\.channels=16"),
        ({"image_encoder": "vgg"}, r"model\.image_encoder=vgg: timm has no such model; near it are"),
        ({"audio_projection": "none"}, r"model\.audio_projection=none: allowed are"),
        ({"audio_projection": "audio_sa_3_3_pool_2"}, r"model\.channels=16: .* multiple of 6"),
        ({"aggregation": "mean"}, r"model\.aggregation=mean: allowed are misa, mima"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_in_one_line(change, message):
    with pytest.raises(UsageError, match=message):
        build_denseav(ModelConfig(**({"channels": 16, "audio_projection": "audio_linear"} | change)), INPUTS)


def test_history_drops_what_a_resumed_run_will_write_again(tmp_path):
    path = tmp_path / "history.jsonl"
    history = History(path, 0)
    for step in (10, 20, 30):
        history.add(step, {"loss/total": step / 7})
    with path.open("a") as file:
        file.write('{"step": 40, "loss/to')
    History(path, 20).add(30, {"loss/total": 1.0})
    assert [(line["step"], line["loss/total"]) for line in read_history(path)] == [(10, round(10 / 7, 6)), (20, round(20 / 7, 6)), (30, 1.0)]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_seeds_of_neighbouring_steps_and_ranks_differ():
    assert len({seed_of(s, t, r) for s in range(4) for t in range(50) for r in range(4)}) == 800
