"""The parts of the trainer that need no data: phases, learning rate, clipping, checkpoints, history."""

import json
import os
import warnings

import pytest
import torch

from configs.command import RunFailed, UsageError
from configs.load import load
from configs.schema import ModelConfig, OptimConfig, TrainConfig
from model.build import build_denseav
from model.grounding.denseav import InputSpec
from model.hub import save_tensors
from model.training import checkpoint
from model.training.optim import clip_each_parameter, freeze_for_phase, learning_rate, make_optimizer, phases_from
from model.training.step import StepOutput, seed_of
from model.training.tracking import History, read_history

TINY = ["model.channels=16", "model.heads=2", "model.audio_projection=audio_linear", "model.image_pool=1", "tracker=none"]
INPUTS = InputSpec(image_size_px=32, clip_duration_s=0.64, sample_rate_hz=16000)


def _model(config: TrainConfig):
    torch.manual_seed(0)
    return build_denseav(config.model, INPUTS)


def _backward(model, seed):
    generator = torch.Generator().manual_seed(seed)
    image, audio, log_scale = model(
        torch.randn(2, 3, 32, 32, generator=generator), torch.randn(2, 10240, generator=generator), torch.ones(2, 10240, dtype=torch.bool)
    )
    (image.dense.square().mean() + audio.dense.square().mean() + log_scale.exp()).backward()


def test_the_run_splits_into_two_phases_and_resumes_on_both_sides():
    assert [tuple(p) for p in phases_from(0, 3, 10)] == [("projections", 0, 0, 3), ("full", 3, 3, 10)]
    assert [tuple(p) for p in phases_from(2, 3, 10)] == [("projections", 0, 2, 3), ("full", 3, 3, 10)]
    assert [tuple(p) for p in phases_from(3, 3, 10)] == [("full", 3, 3, 10)]
    assert [tuple(p) for p in phases_from(7, 0, 10)] == [("full", 0, 7, 10)]
    assert phases_from(10, 3, 10) == []


def test_the_learning_rate_warms_up_then_follows_its_schedule():
    config = OptimConfig(lr=1.0, warmup_steps=4, schedule="cosine")
    assert [learning_rate(config, s, 12) for s in (0, 1, 3)] == [0.25, 0.5, 1.0]
    assert learning_rate(config, 8, 12) == pytest.approx(0.5)
    assert learning_rate(config, 12, 12) == pytest.approx(0.0)
    assert learning_rate(OptimConfig(lr=2.0, warmup_steps=0), 10**6, 3) == 2.0


def test_each_gradient_is_clipped_by_its_own_norm():
    a, b, c = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.6, 0.8])
    norm = clip_each_parameter([a, b, c], max_norm=2.0)
    assert norm == pytest.approx((25 + 1) ** 0.5)
    torch.testing.assert_close(a.grad, torch.tensor([1.2, 1.6]))
    torch.testing.assert_close(b.grad, torch.tensor([0.6, 0.8]))
    assert c.grad is None


@pytest.mark.parametrize("phase", ["projections", "full"])
def test_in_each_phase_every_learning_parameter_gets_a_gradient_and_no_other(phase):
    model = _model(load(TrainConfig, TINY))
    learnable = frozenset(n for n, p in model.named_parameters() if p.requires_grad)
    freeze_for_phase(model, phase, learnable)
    _backward(model, 0)
    projections = {id(p) for p in model.projection_parameters()}
    for name, p in model.named_parameters():
        learns = name in learnable and (phase == "full" or id(p) in projections)
        assert (p.grad is not None and bool(p.grad.abs().sum() > 0)) == learns, name


def test_unknown_optimiser_and_schedule_are_refused():
    model = _model(load(TrainConfig, TINY))
    for key, value in (("name", "sgdd"), ("schedule", "linear")):
        with pytest.raises(UsageError, match=rf"optim\.{key}={value}: allowed are"):
            make_optimizer(OptimConfig(**{key: value}), model)


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


def _train_two_steps(root, config, model, optimizer, fingerprint):
    for step in range(2):
        _backward(model, step)
        optimizer.step()
        optimizer.zero_grad()
    return checkpoint.save(root, 2, "full", model, optimizer, None, config, fingerprint)


def test_a_restored_run_makes_the_same_next_step(tmp_path):
    config = load(TrainConfig, TINY)
    model = _model(config)
    optimizer = make_optimizer(config.optim, model)
    folder = _train_two_steps(tmp_path, config, model, optimizer, {"seed": 1})

    other = _model(config)
    other_optimizer = make_optimizer(config.optim, other)
    assert checkpoint.read_state(folder, config, {"seed": 1})["step"] == 2
    checkpoint.restore(folder, other, other_optimizer, None)
    for m, o in ((model, optimizer), (other, other_optimizer)):
        _backward(m, 9)
        o.step()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_going_on_with_other_settings_or_data_names_what_changed(tmp_path):
    config = load(TrainConfig, TINY)
    model = _model(config)
    folder = _train_two_steps(tmp_path, config, model, make_optimizer(config.optim, model), {"windows": 5})
    with pytest.raises(UsageError, match=r"optim\.lr: 5e-05 -> 1\.0.*name="):
        checkpoint.read_state(folder, load(TrainConfig, [*TINY, "optim.lr=1"]), {"windows": 5})
    with pytest.raises(UsageError, match=r"windows: 5 -> 6"):
        checkpoint.read_state(folder, config, {"windows": 6})
    assert checkpoint.read_state(folder, load(TrainConfig, [*TINY, "steps=99"]), {"windows": 5})["step"] == 2


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    config = load(TrainConfig, TINY)
    model = _model(config)
    folder = _train_two_steps(tmp_path, config, model, make_optimizer(config.optim, model), {})
    wide = _model(load(TrainConfig, ["model.channels=32", *TINY[1:]]))
    with pytest.raises(UsageError, match="holds another model"):
        checkpoint.restore(folder, wide, None, None)


@pytest.mark.parametrize("damage", ["truncate", "delete", "flip", "no_manifest"])
def test_a_damaged_newest_checkpoint_is_skipped_for_the_one_before(tmp_path, damage):
    config = load(TrainConfig, TINY)
    model = _model(config)
    optimizer = make_optimizer(config.optim, model)
    good = _train_two_steps(tmp_path, config, model, optimizer, {})
    bad = checkpoint.save(tmp_path, 3, "full", model, optimizer, None, config, {})
    weights = bad / "model.safetensors"
    if damage == "truncate":
        os.truncate(weights, weights.stat().st_size - 1)
    elif damage == "delete":
        weights.unlink()
    elif damage == "flip":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    else:
        (bad / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="step_00000003 is damaged"):
        assert checkpoint.newest_checkpoint(tmp_path) == good


def test_a_save_that_fails_leaves_nothing_half_written_and_the_old_one_whole(tmp_path):
    config = load(TrainConfig, TINY)
    model = _model(config)
    optimizer = make_optimizer(config.optim, model)
    good = _train_two_steps(tmp_path, config, model, optimizer, {})
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, 3, "full", model, optimizer, None, config, {"not json": object()})
    assert sorted(p.name for p in tmp_path.iterdir()) == [good.name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.newest_checkpoint(tmp_path) == good


def test_older_checkpoints_are_pruned_and_other_folders_left_alone(tmp_path):
    for name in ("step_00000001", "step_00000002", "step_00000010", "step_00000011", "step_best"):
        (tmp_path / name).mkdir()
    checkpoint.prune(tmp_path, keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000010", "step_00000011", "step_best"]


def test_where_every_checkpoint_is_damaged_nothing_begins_anew_by_itself(tmp_path):
    (tmp_path / "step_00000005").mkdir()
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(UsageError, match="all 1 checkpoints are damaged"):
        checkpoint.newest_checkpoint(tmp_path)


def test_checkpoints_after_the_one_resumed_are_set_aside(tmp_path):
    for step in (1, 2, 3):
        (tmp_path / f"step_{step:08d}").mkdir()
    checkpoint.set_aside_newer(tmp_path, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged_step_00000002", "damaged_step_00000003", "step_00000001"]


def test_a_data_set_may_move_and_a_cosine_run_keeps_its_length(tmp_path):
    sources = "stream.sources=[{name: a, shards: X}]"
    config = load(TrainConfig, [*TINY, sources])
    model = _model(config)
    folder = _train_two_steps(tmp_path, config, model, make_optimizer(config.optim, model), {})
    assert checkpoint.read_state(folder, load(TrainConfig, [*TINY, sources.replace("X", "Y")]), {})["step"] == 2
    cosine = load(TrainConfig, [*TINY, "optim.schedule=cosine"])
    folder = _train_two_steps(tmp_path / "cosine", cosine, model, make_optimizer(config.optim, model), {})
    with pytest.raises(UsageError, match="steps: 1000001 -> 99"):
        checkpoint.read_state(folder, load(TrainConfig, [*TINY, "optim.schedule=cosine", "steps=99"]), {})


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_term_and_clips():
    terms = {"info_nce": torch.tensor(1.0), "tv": torch.tensor(float("nan"))}
    with pytest.raises(RunFailed, match=r"step 7: the loss is nan \(tv=nan\); clips a, b"):
        StepOutput(sum(terms.values()), terms, {}).check_finite(7, ["a", "b"])
    StepOutput(terms["info_nce"], {}, {}).check_finite(7, [])


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


def test_a_disk_that_refuses_the_weights_is_an_error_of_the_disk(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_tensors({"a": torch.zeros(3)}, tmp_path / "no such folder" / "a.safetensors")
