"""Number of processes that a launcher was asked for, and the warning when only one runs."""

import pytest

from model.training import launch


@pytest.mark.parametrize(
    ("command", "processes"),
    [
        ("python train.py", 1),
        ("accelerate launch --cpu --num_processes 2 train.py", 2),
        ("accelerate launch --num-processes=4 train.py", 4),
        ("accelerate launch --config_file {file} train.py", 8),
        ("accelerate launch --config_file {file} --num_processes 3 train.py", 3),
        ("accelerate launch --config_file nowhere.yaml train.py", 1),
        ("accelerate launch --num_processes", 1),
    ],
)
def test_processes_that_the_command_line_or_its_file_asks_for(command, processes, tmp_path):
    file = tmp_path / "accelerate.yaml"
    file.write_text("distributed_type: 'NO'\nnum_processes: 8\n")
    assert launch.asked_processes(command.format(file=file).split()) == processes


def test_one_process_where_several_were_asked_for_is_a_warning(monkeypatch):
    monkeypatch.setattr(launch, "parent_process", lambda: ({}, ["accelerate", "launch", "--num_processes", "2"]))
    assert launch.warnings(2) == []
    (text,) = launch.warnings(1)
    assert text.startswith("--num_processes 2 was given, but one process runs") and "--multi_gpu" in text
    monkeypatch.setattr(launch, "parent_process", lambda: ({}, ["python"]))
    assert launch.warnings(1) == []
