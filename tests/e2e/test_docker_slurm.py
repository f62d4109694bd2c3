"""docker/slurm_train.sh and train_node.sh, run by real processes without SLURM: save, requeue and restart.

Both nodes are this machine; sbatch, srun and scontrol are stand-ins that do at once what SLURM does later.
"""

import os
import shutil
import signal
import subprocess
import time

import pytest
from paths import ROOT
from tiny_machines import arguments, end, steps_logged, wait
from tiny_runs import steps_saved

SRUN = """#!/usr/bin/env bash
# Starts the task on each node at once; SIGUSR1 goes to every process of every task, as SLURM's own does.
while [[ "$1" == --* ]]; do shift; done
tasks=()
for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do
    SLURM_NODEID=$node setsid "$@" >>"$SPOOL/node$node" 2>&1 &
    tasks+=($!)
done
descendants() {
    for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do echo "$child"; descendants "$child"; done
}
hand_on() { for task in "${tasks[@]}"; do kill -USR1 "$task" $(descendants "$task") 2>/dev/null; done; }
trap hand_on USR1
answer=0
for task in "${tasks[@]}"; do
    while true; do
        wait "$task"; code=$?
        kill -0 "$task" 2>/dev/null || break
    done
    [ "$code" -gt "$answer" ] && answer=$code
done
exit $answer
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
show) for node in $(seq "$SLURM_JOB_NUM_NODES"); do echo localhost; done ;;
requeue) echo "$2" >>"$SPOOL/requeued" ;;
esac
"""


@pytest.fixture
def slurm(tmp_path, machine):
    """Starts the batch script as SLURM would on two nodes, in a session of its own; what it says goes to spool/said."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "spool").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    shutil.copy(ROOT / "docker/slurm_train.sh", tmp_path / "spool/script")
    variables = {
        "SLURM_JOB_ID": str(int(machine["PORT"]) - 20000 if int(machine["PORT"]) < 40000 else 7),
        "SLURM_JOB_NUM_NODES": "2",
    }
    variables |= {
        "SLURM_JOB_NODELIST": "localhost,localhost",
        "SLURM_GPUS_ON_NODE": "1",
        "SPOOL": str(tmp_path / "spool"),
    }
    environment = machine | variables | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    started = []

    def start(*words):
        with (tmp_path / "spool/said").open("ab") as said:
            command = ["bash", str(tmp_path / "spool/script"), *words]
            started.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True)
            )
        return started[-1]

    yield start
    for process in started:
        end(process)


def _said(tmp_path):
    return "\n".join(path.read_text() for path in (tmp_path / "spool").iterdir() if path.name != "script")


@pytest.mark.slow
def test_a_slurm_job_trains_on_two_nodes_saves_before_its_end_and_goes_back_into_the_queue(settings, slurm, tmp_path):
    out = tmp_path / "out"
    job = slurm("a", *arguments(settings, out, "steps=100000"))
    wait(lambda: steps_logged(out) > 3, lambda: _said(tmp_path))
    job.send_signal(signal.SIGUSR1)  # --signal=B:USR1@300
    assert job.wait(120) == 0, _said(tmp_path)
    assert len((tmp_path / "spool/requeued").read_text().split()) == 1
    assert (out / "a/REQUEUE").read_text().startswith("SIGUSR1 after step ")
    (saved,) = steps_saved(out)
    assert saved == steps_logged(out) > 3
    again = slurm("a", *arguments(settings, out, f"steps={saved + 2}"))  # what the queue does later
    assert again.wait(200) == 0, _said(tmp_path)
    assert not (out / "a/REQUEUE").exists() and "on 2 processes" in (tmp_path / "spool/node0").read_text()
    assert steps_saved(out)[-1] == saved + 2 and len((tmp_path / "spool/requeued").read_text().split()) == 1


@pytest.mark.slow
def test_a_job_that_was_cancelled_or_misused_stays_out_of_the_queue(settings, slurm, tmp_path):
    out = tmp_path / "out"
    wrong = slurm("a", *arguments(settings, out, "steps=10", "on=y"))
    assert wrong.wait(200) != 0 and "unknown key 'on'" in _said(tmp_path)
    job = slurm("a", *arguments(settings, out, "steps=100000"))
    wait(lambda: steps_logged(out) > 1, lambda: _said(tmp_path))
    job.send_signal(signal.SIGTERM)  # scancel tells the script, and the steps too
    time.sleep(1)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(120) != 0 and steps_saved(out)
    assert not (tmp_path / "spool/requeued").exists()


@pytest.mark.parametrize("name", ["", "config=a.yaml", "runs/a"])
def test_a_job_without_a_name_starts_nothing(slurm, tmp_path, name):
    assert slurm(name, "steps=1").wait(20) == 2
    said = (tmp_path / "spool/said").read_text()
    assert (
        said.startswith("usage: sbatch --nodes=N --gpus-per-node=G docker/slurm_train.sh NAME config=...")
        and said.count("\n") == 1
    )


@pytest.mark.parametrize(("restart", "starts", "code"), [("yes", 2, 0), ("no", 1, 1)])
def test_a_machine_starts_the_run_again_after_another_one_was_preempted_only_with_restart(
    tmp_path, restart, starts, code
):
    """A stand-in for the launcher fails and leaves REQUEUE the first time, and succeeds the second time."""
    launcher = tmp_path / "python"
    launcher.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/starts\n[ $(wc -l <{tmp_path}/starts) = 2 ] && exit 0\n'
        f"sleep 0.1; touch {tmp_path}/REQUEUE; exit 1\n"
    )
    launcher.chmod(0o755)
    variables = {"PYTHON": str(launcher), "NODE": "1", "NODES": "2", "GPUS": "4", "HEAD": "host0", "RESTART": restart}
    command = ["bash", "docker/train_node.sh", str(tmp_path), "steps=1"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, timeout=60, check=False)
    lines = (tmp_path / "starts").read_text().splitlines()
    assert done.returncode == code and len(lines) == starts
    assert lines[-1].startswith("-m accelerate.commands.launch --config_file configs/accelerate/multi_node.yaml ")
    assert lines[-1].endswith(
        "--num_machines 2 --num_processes 8 --machine_rank 1 "
        "--main_process_ip host0 --main_process_port 29500 -m train steps=1"
    )
