"""Which checkpoint a run resumes from, which it keeps, and writing in the background."""

import os
import threading
import warnings

import pytest
from other_user import open_folder, other_user
from tiny_training import save, step, tiny_config, tiny_state

from configs.errors import CommandFailed
from configs.schema import CheckpointConfig
from model.hub import from_pretrained
from model.training.checkpoint import snapshot
from model.training.checkpoint_folder import clean_up_interrupted, newest_checkpoint, prune, update_best_link
from model.training.checkpoint_manager import CheckpointManager


def _names(root):
    return sorted(path.name for path in root.iterdir())


@pytest.mark.parametrize(
    "damage", ["truncate", "delete", "flip", "no_manifest", "manifest_of_other_kind", "empty_manifest"]
)
def test_damaged_newest_checkpoint_is_skipped_for_the_previous_one(tmp_path, damage, capsys):
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
    err = capsys.readouterr().err
    assert err.startswith("warning: ") and "step_00000003 is damaged" in err and err.count("\n") == 1


def test_run_does_not_restart_if_every_checkpoint_is_damaged(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / "step_00000005").mkdir()
    with pytest.raises(ValueError, match="all 1 checkpoints are damaged"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("hidden", ["step_00000002/model.safetensors", "step_00000002", "."])
def test_checkpoint_without_read_permission_is_neither_damaged_nor_skipped_nor_renamed(hidden):
    config = tiny_config()
    state = tiny_state(config)
    with open_folder() as root:
        for number in (1, 2):
            save(root, number, state, config)
        (root / hidden).chmod(0)
        with other_user(), pytest.raises((CommandFailed, PermissionError), match="Permission denied"):
            newest_checkpoint(root)
        (root / hidden).chmod(0o755)
        assert sorted(path.name for path in root.iterdir()) == ["step_00000001", "step_00000002"]
        with other_user():
            assert newest_checkpoint(root) == root / "step_00000002"  # its files have the mode that the umask allows


def test_older_checkpoints_are_pruned_and_other_folders_kept(tmp_path):
    for name in ("step_00000001", "step_00000002", "step_09999999", "step_10000000", "step_best"):
        (tmp_path / name).mkdir()
    prune(tmp_path, keep_last=2)
    assert _names(tmp_path) == ["step_09999999", "step_10000000", "step_best"]


def test_best_checkpoint_and_every_n_steps_are_kept(tmp_path):
    for number in (5, 10, 15, 20, 25, 30, 35):
        (tmp_path / f"step_{number:08d}").mkdir()
    (tmp_path / "best").symlink_to("step_00000015")
    prune(tmp_path, keep_last=1, keep_every_n_steps=10)
    assert _names(tmp_path) == ["best", *(f"step_{number:08d}" for number in (10, 15, 20, 30, 35))]


def test_cleanup_removes_leftovers_and_renames_later_checkpoints(tmp_path):
    for name in ("step_00000001", "step_00000002", "step_00000003", ".step_00000004.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / ".best.tmp").symlink_to("step_00000001")
    (tmp_path / "best").symlink_to("step_00000003")
    clean_up_interrupted(tmp_path, 1)
    assert _names(tmp_path) == ["damaged_step_00000002", "damaged_step_00000003", "step_00000001"]


def test_best_link_follows_the_highest_metric(tmp_path):
    config = tiny_config()
    state = tiny_state(config)
    metrics = [{"a/map": 0.3}, {"a/map": 0.5}, None, {"a/map": 0.5}, {"a/map": 0.4}]
    linked = []
    for number, found in enumerate(metrics):
        update_best_link(tmp_path, save(tmp_path, number, state, config, metrics=found), "a/map")
        linked.append((tmp_path / "best").readlink().name)
    assert linked == ["step_00000000", *["step_00000001"] * 4]
    assert from_pretrained(tmp_path / "best").num_heads == 2


def test_unknown_best_metric_is_an_error_and_the_checkpoint_is_still_written(tmp_path):
    config = tiny_config()
    manager = CheckpointManager(tmp_path, CheckpointConfig(best_metric="ade20k_speech/basic/mop"))
    snap = snapshot(1, "full", tiny_state(config), config, {}, {"ade20k_speech/basic/map": 0.5, "places/r10": 0.1})
    with pytest.raises(
        ValueError,
        match=r"checkpoint\.best_metric=ade20k_speech/basic/mop: .* similar ones are ade20k_speech/basic/map",
    ):
        manager.add(snap)
    assert manager.finish() == 1 and newest_checkpoint(tmp_path) == tmp_path / "step_00000001"


def test_late_metrics_can_make_a_checkpoint_the_best_one(tmp_path):
    config = tiny_config()
    state = tiny_state(config)
    manager = CheckpointManager(tmp_path, CheckpointConfig(best_metric="a/map", keep_last=1))
    manager.add(snapshot(1, "full", state, config, {}, {"a/map": 0.3}))
    manager.add(snapshot(2, "full", state, config, {}))  # stopped during its evaluation
    resumed = CheckpointManager(tmp_path, CheckpointConfig(best_metric="a/map", keep_last=1), manager.finish())
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
    with pytest.raises(ValueError, match="similar ones are a/mip"):
        resumed.add_metrics({"a/mip": 0.6})


def test_manager_writes_in_the_background_prunes_and_finishes_on_exit(tmp_path):
    config = tiny_config()
    state = tiny_state(config)
    with CheckpointManager(tmp_path, CheckpointConfig(keep_last=2, keep_every_n_steps=3, best_metric="m")) as manager:
        for number in range(1, 9):
            step(state, number)
            manager.add(snapshot(number, "full", state, config, {}, {"m": 1.0 if number == 2 else 0.5}))
    assert manager.newest == 8
    assert _names(tmp_path) == ["best", *(f"step_{number:08d}" for number in (2, 3, 6, 7, 8))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert newest_checkpoint(tmp_path).name == "step_00000008"


def test_write_error_is_one_warning_and_the_next_checkpoint_is_tried(tmp_path, capsys):
    config = tiny_config()
    state = tiny_state(config)
    root = tmp_path / "checkpoints"
    root.write_text("a file where the folder belongs")
    with CheckpointManager(root, CheckpointConfig()) as manager:
        manager.add(snapshot(1, "full", state, config, {}))
        assert manager.finish() == 0
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "warning: no checkpoint of step 1: " in err and "there is no other yet" in err
        root.unlink()
        manager.add(snapshot(2, "full", state, config, {}))
        assert manager.finish() == 2 and capsys.readouterr().err == ""
        (root / ".step_00000003.tmp").write_text("a file where the folder is written")
        manager.add(snapshot(3, "full", state, config, {}))
    assert (
        manager.newest == 2
        and "warning: no checkpoint of step 3: " in (err := capsys.readouterr().err)
        and "the newest checkpoint is that of step 2" in err
    )


def test_error_in_the_writer_thread_is_raised_and_ctrl_c_does_not_wait(tmp_path):
    config = tiny_config()
    manager = CheckpointManager(tmp_path, CheckpointConfig())
    manager.add(snapshot(1, "full", tiny_state(config), config, {"not json": object()}))
    with pytest.raises(TypeError):
        manager.finish()
    forever = threading.Event()
    with pytest.raises(KeyboardInterrupt), CheckpointManager(tmp_path, CheckpointConfig()) as manager:
        manager._thread = threading.Thread(target=forever.wait, daemon=True)
        manager._thread.start()
        raise KeyboardInterrupt
    forever.set()
