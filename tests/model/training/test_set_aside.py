"""overwrite=true: an earlier run of the same name is set aside."""

import pytest

from configs.atomic_write import folder_lock
from configs.schema import TrainConfig
from model.training.resume import set_aside


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "history.jsonl").write_text("old")
    return folder


def test_earlier_runs_are_renamed_one_after_the_other(folder, capsys):
    config = TrainConfig(overwrite=True)
    set_aside(config, folder)
    assert not folder.exists() and (folder.parent / "demo.1/history.jsonl").read_text() == "old"
    assert str(folder.parent / "demo.1") in capsys.readouterr().out
    set_aside(config, folder)  # there is none
    folder.mkdir()
    (folder / "history.jsonl").write_text("newer")
    set_aside(config, folder)
    assert (folder.parent / "demo.2/history.jsonl").read_text() == "newer"


def test_without_overwrite_nothing_is_renamed(folder):
    set_aside(TrainConfig(), folder)
    assert (folder / "history.jsonl").exists()


def test_a_preempted_run_is_resumed(folder):
    (folder / "REQUEUE").write_text("SIGUSR1 after step 3\n")
    set_aside(TrainConfig(overwrite=True), folder)
    assert (folder / "history.jsonl").exists()


def test_other_ranks_leave_the_folder_to_the_first(folder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    set_aside(TrainConfig(overwrite=True), folder)
    assert (folder / "history.jsonl").exists()


def test_a_folder_that_another_command_writes_is_an_error(folder):
    with folder_lock(folder), pytest.raises(ValueError, match="another"):
        set_aside(TrainConfig(overwrite=True), folder)
    assert (folder / "history.jsonl").exists()
