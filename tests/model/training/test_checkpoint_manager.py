"""Which checkpoint a run goes on from, which it keeps, and how they are written while it trains."""

import os
import threading
import warnings

import pytest
from tiny_training import save, step, tiny_config, tiny_state

from configs.schema import CheckpointConfig
from model.hub import from_pretrained
from model.training.checkpoint import snapshot
from model.training.checkpoint_manager import (
    CheckpointManager,
    clean_up_interrupted,
    newest_checkpoint,
    prune,
    update_best_link,
)


def _names(root):
    return sorted(path.name for path in root.iterdir())


@pytest.mark.parametrize(
    "damage", ["truncate", "delete", "flip", "no_manifest", "manifest_of_other_kind", "empty_manifest"]
)
def test_a_damaged_newest_checkpoint_is_skipped_for_the_one_before(tmp_path, damage, capsys):
    config = tiny_config()
    state = tiny_state(config)
    step(state, 0)
    good, bad = (save(tmp_path, number, state, config) for number in (2, 3))
    weights = bad / "model.safetensors"
    if damage == "truncate":
        os.truncate(weights, weights.stat().st_size - 1)
    elif damage == "delete":
        weights.unlink()
    elif damage == "flip":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "no_manifest":
        (bad / "manifest.json").unlink()
    else:
        (bad / "manifest.json").write_text("[1]" if damage == "manifest_of_other_kind" else "{}")
    assert newest_checkpoint(tmp_path) == good
    told = capsys.readouterr().err
    assert told.startswith("warning: ") and "step_00000003 is damaged" in told and told.count("\n") == 1


def test_where_every_checkpoint_is_damaged_nothing_begins_anew_by_itself(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / "step_00000005").mkdir()
    with pytest.raises(ValueError, match="all 1 checkpoints are damaged"):
        newest_checkpoint(tmp_path)


def test_older_checkpoints_are_pruned_and_other_folders_left_alone(tmp_path):
    for name in ("step_00000001", "step_00000002", "step_09999999", "step_10000000", "step_best"):
        (tmp_path / name).mkdir()
    prune(tmp_path, keep_last=2)
    assert _names(tmp_path) == ["step_09999999", "step_10000000", "step_best"]


def test_the_best_one_and_every_so_many_steps_stay_for_good(tmp_path):
    for number in (5, 10, 15, 20, 25, 30, 35):
        (tmp_path / f"step_{number:08d}").mkdir()
    (tmp_path / "best").symlink_to("step_00000015")
    prune(tmp_path, keep_last=1, keep_every_n_steps=10)
    assert _names(tmp_path) == ["best", *(f"step_{number:08d}" for number in (10, 15, 20, 30, 35))]


def test_before_a_run_goes_on_what_a_killed_one_left_is_removed_and_later_ones_set_aside(tmp_path):
    for name in ("step_00000001", "step_00000002", "step_00000003", ".step_00000004.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / ".best.tmp").symlink_to("step_00000001")
    (tmp_path / "best").symlink_to("step_00000003")
    clean_up_interrupted(tmp_path, 1)
    assert _names(tmp_path) == ["damaged_step_00000002", "damaged_step_00000003", "step_00000001"]


def test_best_leads_to_the_highest_metric_and_moves_only_upwards(tmp_path):
    config = tiny_config()
    state = tiny_state(config)
    metrics = [{"a/map": 0.3}, {"a/map": 0.5}, None, {"a/map": 0.5}, {"a/map": 0.4}]
    moved = [
        update_best_link(tmp_path, save(tmp_path, number, state, config, metrics=found), "a/map")
        for number, found in enumerate(metrics)
    ]
    assert moved == [True, True, False, False, False]
    assert (tmp_path / "best").readlink().name == "step_00000001"
    assert from_pretrained(tmp_path / "best").num_heads == 2


def test_a_best_metric_that_the_evaluation_does_not_give_is_refused_and_costs_no_checkpoint(tmp_path):
    config = tiny_config()
    shelf = CheckpointManager(tmp_path, CheckpointConfig(best_metric="ade20k_speech/basic/mop"))
    snap = snapshot(1, "full", tiny_state(config), config, {}, {"ade20k_speech/basic/map": 0.5, "places/r10": 0.1})
    with pytest.raises(
        ValueError, match=r"checkpoint\.best_metric=ade20k_speech/basic/mop: .* near it are ade20k_speech/basic/map"
    ):
        shelf.add(snap)
    assert shelf.finish() == 1 and newest_checkpoint(tmp_path) == tmp_path / "step_00000001"


def test_an_evaluation_made_up_for_lets_the_checkpoint_on_disk_become_best(tmp_path):
    config = tiny_config()
    state = tiny_state(config)
    shelf = CheckpointManager(tmp_path, CheckpointConfig(best_metric="a/map", keep_last=1))
    shelf.add(snapshot(1, "full", state, config, {}, {"a/map": 0.3}))
    shelf.add(snapshot(2, "full", state, config, {}))  # stopped in its evaluation
    resumed = CheckpointManager(tmp_path, CheckpointConfig(best_metric="a/map", keep_last=1), shelf.finish())
    resumed.add_metrics({"a/map": 0.5})
    assert (tmp_path / "best").readlink().name == "step_00000002" and newest_checkpoint(
        tmp_path
    ).name == "step_00000002"
    resumed.add(snapshot(3, "full", state, config, {}, {"a/map": 0.4}))
    resumed.finish()
    assert (
        _names(tmp_path) == ["best", "step_00000002", "step_00000003"]
        and (tmp_path / "best").readlink().name == "step_00000002"
    )
    with pytest.raises(ValueError, match="near it are a/mip"):
        resumed.add_metrics({"a/mip": 0.6})


def test_a_shelf_writes_beside_the_training_keeps_what_it_should_and_is_done_when_left(tmp_path):
    config = tiny_config()
    state = tiny_state(config)
    with CheckpointManager(tmp_path, CheckpointConfig(keep_last=2, keep_every_n_steps=3, best_metric="m")) as shelf:
        for number in range(1, 9):
            step(state, number)
            shelf.add(snapshot(number, "full", state, config, {}, {"m": 1.0 if number == 2 else 0.5}))
    assert shelf.newest == 8
    assert _names(tmp_path) == ["best", *(f"step_{number:08d}" for number in (2, 3, 6, 7, 8))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert newest_checkpoint(tmp_path).name == "step_00000008"


def test_a_disk_that_refuses_is_told_in_one_line_and_the_next_checkpoint_is_tried_again(tmp_path, capsys):
    config = tiny_config()
    state = tiny_state(config)
    root = tmp_path / "checkpoints"
    root.write_text("a file where the folder belongs")
    with CheckpointManager(root, CheckpointConfig()) as shelf:
        shelf.add(snapshot(1, "full", state, config, {}))
        assert shelf.finish() == 0
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "warning: no checkpoint of step 1: " in told and "there is none yet" in told
        root.unlink()
        shelf.add(snapshot(2, "full", state, config, {}))
        assert shelf.finish() == 2 and capsys.readouterr().err == ""
        (root / ".step_00000003.tmp").write_text("a file where the folder is written")
        shelf.add(snapshot(3, "full", state, config, {}))
    assert (
        shelf.newest == 2
        and "warning: no checkpoint of step 3: " in (told := capsys.readouterr().err)
        and "the newest is that of step 2" in told
    )


def test_a_mistake_in_the_thread_reaches_the_one_that_trains_and_ctrl_c_waits_for_nothing(tmp_path):
    config = tiny_config()
    shelf = CheckpointManager(tmp_path, CheckpointConfig())
    shelf.add(snapshot(1, "full", tiny_state(config), config, {"not json": object()}))
    with pytest.raises(TypeError):
        shelf.finish()
    forever = threading.Event()
    with pytest.raises(KeyboardInterrupt), CheckpointManager(tmp_path, CheckpointConfig()) as shelf:
        shelf._thread = threading.Thread(target=forever.wait, daemon=True)
        shelf._thread.start()
        raise KeyboardInterrupt
    forever.set()
