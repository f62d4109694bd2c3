"""Invalid settings, logged values of a step, history and seeds."""

import itertools
import json
import math

import pytest
import torch
from tiny_training import INPUTS, tiny_config, tiny_model

from configs.load import load
from configs.schema import ModelConfig, OptimConfig, TrainConfig
from model.build import build_denseav, check_input_sizes
from model.denseav import SimilarityConfig
from model.features import AudioFeatures, ImageFeatures
from model.losses.contrastive import LogitScale
from model.losses.inputs import LossInputs
from model.training.launch import create_accelerator
from model.training.optim import build_optimizer
from model.training.step import StepOutput, derive_seed
from model.training.tracking import History, read_history
from train import main


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, r"model\.num_heads=3 must divide model\.embed_dim=16"),
        ({"image_encoder": "vgg"}, r"model\.image_encoder=vgg: timm has no such model"),
        ({"audio_projection": "none"}, r"model\.audio_projection=none: allowed are"),
        ({"audio_projection": "conv_attention"}, r"model\.embed_dim=16: .* multiple of 6"),
        ({"similarity_aggregation": "mean"}, r"model\.similarity_aggregation=mean: allowed are misa, mima"),
    ],
)
def test_invalid_model_settings_are_one_line(change, message):
    with pytest.raises(ValueError, match=message):
        build_denseav(ModelConfig(**({"embed_dim": 16, "audio_projection": "linear"} | change)), INPUTS)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("name=", "name='': must be the name of a folder below out=runs"),
        ("name=../x", r"name='\.\./x': must be the name of a folder"),
        ("name=/tmp/x", "name='/tmp/x': must be the name of a folder"),
        (
            "checkpoint.best_metric=a/b/c",
            r"checkpoint\.best_metric=a/b/c: needs evaluate\.config=",
        ),
        ("distributed_timeout_s=.inf", r"distributed_timeout_s=inf must be 1 to 1"),
    ],
)
def test_invalid_run_settings_are_errors_before_anything_is_built(setting, message):
    with pytest.raises(ValueError, match=message):
        main(load(TrainConfig, [setting]))


def test_best_metric_without_a_checkpoint_at_each_evaluation_is_an_error():
    changes = [
        "checkpoint.best_metric=a/b/c",
        "evaluate.config=x.yaml",
        "evaluate.every_steps=200",
        "checkpoint.every_steps=300",
    ]
    with pytest.raises(
        ValueError, match=r"evaluate\.every_steps=200 must be a multiple of checkpoint\.every_steps=300"
    ):
        main(load(TrainConfig, changes))


@pytest.mark.parametrize(
    ("key", "value", "setting"),
    [("gradient_accumulation_steps", "4", "gradient_accumulation_steps="), ("dynamo_backend", "EAGER", "compile=true")],
)
def test_accelerate_settings_that_duplicate_the_trainers_are_errors(monkeypatch, tmp_path, key, value, setting):
    monkeypatch.setenv(f"ACCELERATE_{key.upper()}", value)
    with pytest.raises(ValueError, match=f"{key}={value.lower()} .* set {setting} instead"):
        create_accelerator(10.0, [], tmp_path)


@pytest.mark.parametrize(
    ("inputs", "change"),
    [
        (INPUTS._replace(image_size_px=4), {}),
        (INPUTS._replace(clip_duration_s=0.02), {}),
        (INPUTS, {"image_pool_size": 13}),
    ],
)
def test_inputs_too_small_for_the_model_are_errors_before_training(inputs, change):
    model = build_denseav(ModelConfig(**({"embed_dim": 16, "audio_projection": "linear"} | change)), inputs)
    with pytest.raises(ValueError, match=r"stream\.image_size_px=.*(too small for|has 4 x 4 cells)"):
        check_input_sizes(model)


def test_head_win_rate_includes_class_tokens_if_they_are_compared():
    torch.manual_seed(0)
    tokens = torch.zeros(3, 2, 4)
    tokens[:, 1] = 10.0  # head 1 wins every audio frame by its class tokens alone
    sounds, pictures, weights = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 2, 2), torch.ones(3, 5)
    for use_cls in (True, False):
        inputs = LossInputs(
            ImageFeatures(pictures, tokens),
            AudioFeatures(sounds, weights > 0, tokens),
            LogitScale(torch.zeros(())),
            weights,
            torch.ones(3, 2, 2),
            torch.zeros(3, dtype=torch.int64),
            SimilarityConfig(use_cls=use_cls),
        )
        values = StepOutput(torch.zeros(()), {}, torch.eye(3), inputs).values()
        assert values["heads/win_rate_0"] + values["heads/win_rate_1"] == pytest.approx(1)
        assert (values["heads/win_rate_1"] == 1) == use_cls


@pytest.mark.parametrize("pairs", [1, 4])
def test_logged_values_of_a_step_agree_with_a_slow_loop(pairs):
    torch.manual_seed(0)
    sounds, pictures, scores = torch.randn(pairs, 3, 4, 5), torch.randn(pairs, 3, 4, 2, 2), torch.randn(pairs, pairs)
    sounds[:, 2], pictures[:, 2] = 10.0, -10.0  # head 2 never wins
    mask = torch.arange(5) < 1 + torch.arange(pairs)[:, None]
    inputs = LossInputs(
        ImageFeatures(pictures),
        AudioFeatures(sounds, mask),
        LogitScale(torch.tensor(0.5)),
        mask.float(),
        torch.ones(pairs, 2, 2),
        torch.zeros(pairs, dtype=torch.int64),
    )
    wins = [0, 0, 0]
    for pair, step in mask.nonzero().tolist():
        best = [
            max(
                (sounds[pair, k, :, step] @ pictures[pair, k, :, h, w]).item()
                for h, w in itertools.product(range(2), repeat=2)
            )
            for k in range(3)
        ]
        wins[best.index(max(best))] += 1
    others = [scores[a, v].item() for a, v in itertools.permutations(range(pairs), 2)]
    values = StepOutput(torch.tensor(7.0), {"info_nce": torch.tensor(6.0)}, scores, inputs).values()
    expected = {"loss/total": 7.0, "loss/info_nce": 6.0, "logit_scale": math.exp(0.5)}
    expected |= {
        "scores/positive": sum(scores[i, i].item() for i in range(pairs)) / pairs,
        "scores/negative": sum(others) / max(1, len(others)),
        "accuracy": sum(
            max(range(pairs), key=lambda j, i=i: table[i, j].item()) == i
            for table in (scores, scores.T)
            for i in range(pairs)
        )
        / (2 * pairs),
    }
    assert values == pytest.approx(
        expected | {f"heads/win_rate_{k}": count / sum(wins) for k, count in enumerate(wins)}, abs=1e-6
    )


@pytest.mark.parametrize("betas", [[], [0.9], [0.9, 1.0], [-0.1, 0.9]])
def test_invalid_betas_are_errors(betas):
    with pytest.raises(ValueError, match=r"optim\.betas=.*: must be two numbers"):
        build_optimizer(OptimConfig(betas=betas), tiny_model(tiny_config()))


def test_damaged_history_lines_are_skipped(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"step": 1, "a": 2}\n\xff\xfe\nnull\n[1]\n{"loss": 1}\n{"step": "x"}\n{"step": 2}\n')
    assert [line["step"] for line in read_history(path)] == [1, 2]


def test_resumed_history_drops_later_lines(tmp_path):
    path = tmp_path / "history.jsonl"
    history = History(path, 0)
    for step in (10, 20, 30):
        history.add(step, {"loss/total": step / 7})
    with path.open("a") as file:
        file.write('{"step": 40, "loss/to')
    History(path, 20).add(30, {"loss/total": 1.0})
    assert [(line["step"], line["loss/total"]) for line in read_history(path)] == [
        (10, round(10 / 7, 6)),
        (20, round(20 / 7, 6)),
        (30, 1.0),
    ]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_seeds_of_neighboring_steps_and_ranks_differ():
    assert len({derive_seed(s, t, r) for s in range(4) for t in range(50) for r in range(4)}) == 800
